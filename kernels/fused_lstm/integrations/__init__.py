"""Other libraries' models on this library's engines: each an import of its own, `import fused_lstm`
loads none."""
