"""Operators for torch's dispatcher: schemas, fakes, derivatives, transforms, ONNX."""
