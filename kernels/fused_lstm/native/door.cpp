// A door from Python to the operators `lstm`, `lstm_backward` and `prepared_lstm`, past PyTorch's dispatcher,
// which takes more time than a small step. fused_lstm/call/door.py says when it may be taken. A call that it
// does not take, or that is refused, goes to the operator, which says why.
#include <algorithm>
#include <cstring>
#include <iterator>

#include "ops/ops.h"

#ifdef __linux__

using Object = void;  // Python's PyObject

// Functions of LibTorch's stable ABI, which has these two from 2.14 on, and of Python's. They are declared
// here, and may be missing: one library serves every PyTorch and every Python, and none.
#define MAY_BE_MISSING __attribute__((weak))
extern "C" {
MAY_BE_MISSING AOTITorchError torch_tensor_from_pyobject(Object*, AtenTensorHandle*);
MAY_BE_MISSING AOTITorchError torch_tensor_to_pyobject(AtenTensorHandle, void* type, Object**);
MAY_BE_MISSING Object* Py_BuildValue(const char* format, ...);
MAY_BE_MISSING void Py_DecRef(Object*);
MAY_BE_MISSING Object* PyObject_Type(Object*);
MAY_BE_MISSING Object* PyTuple_New(intptr_t size);
MAY_BE_MISSING intptr_t PyTuple_Size(Object*);
MAY_BE_MISSING Object* PyTuple_GetItem(Object*, intptr_t);
MAY_BE_MISSING int PyTuple_SetItem(Object*, intptr_t, Object* owned);
MAY_BE_MISSING Object* PyCapsule_New(void*, const char* name, void (*destroy)(Object*));
MAY_BE_MISSING void* PyCapsule_GetPointer(Object*, const char* name);
MAY_BE_MISSING Object* PyCFunction_NewEx(void* method, Object* self, Object* module);
MAY_BE_MISSING void* PyEval_SaveThread();
MAY_BE_MISSING void PyEval_RestoreThread(void* state);
MAY_BE_MISSING void PyErr_Clear();
}

namespace fused_lstm {
namespace {

constexpr const char* capsule_name = "fused_lstm.door";

// How the input, the state and the results of a layer lie, or of a cell, which are not the operator's.
struct Layer {
  int64_t is_cell, batch_first, has_c;
  int64_t inputs, lanes, outputs, columns;  // I, L * D, P, and the columns of c
};

// A door: its operator, those of the operator's arguments that are not tensors, and the types of Python's
// that its tensors may have.
struct Door {
  enum Operator { prepared, forward, backward };

  Operator of;
  bool flag;  // weight_only of `prepared_lstm`, save of `lstm`, needs_dx of `lstm_backward`
  int64_t directions;
  std::string cell, fuse;
  std::vector<double> rates;
  PrecisionOverride precision;
  Layer layer;
  Object *tensor, *parameter, *none;

  intptr_t tensors() const { return of == backward ? 10 : 3; }  // before the weights
  intptr_t optional() const { return of == backward ? 3 : 0; }  // of them, which may be None
};

// Other threads of Python run while this one is in here.
class Unlocked {
 public:
  Unlocked() : thread_(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  ~Unlocked() { PyEval_RestoreThread(thread_); }

 private:
  void* thread_;
};

Object* none() { return Py_BuildValue(""); }

// Undefined for another type, such as one of torch's modes. Columns that lie apart are left to the
// dispatcher too: only of such a tensor can PyTorch have put off its negation (torch.imag of a conjugate).
Tensor tensor_of(Object* object, const Door& door) {
  Object* const type = PyObject_Type(object);
  Py_DecRef(type);  // the object has another
  if (type != door.tensor && type != door.parameter) return Tensor();
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_tensor_from_pyobject(object, &handle));
  Tensor tensor(handle);
  const int64_t last = tensor.dim() - 1;
  const bool usual = last >= 0 && tensor.size(last) > 1 && tensor.strides()[last] == 1;
  return usual || tensor.numel() == 0 ? tensor : Tensor();
}

Object* object_of(const Tensor& tensor) {
  Object* object = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_tensor_to_pyobject(tensor.get(), nullptr, &object));
  return object;
}

// Returns what an operator does, in a row: y, h_n, c_n, of a call that saves also h, c, gates; or dx, dh0, dc0
// and each weight's gradient.
Tensors run(const Door& door, Tensors operands, Tensors weights) {
  const Unlocked unlocked;
  const auto take = [&](size_t index) { return std::move(operands[index]); };
  if (door.of == Door::prepared) {
    auto [y, h_n, c_n] = prepared_lstm(take(0), take(1), take(2), std::move(weights), door.directions,
                                       {}, {}, door.cell, door.flag);
    return {std::move(y), std::move(h_n), std::move(c_n)};
  }
  if (door.of == Door::forward) {
    auto [y, h_n, c_n, h, c, gates] =
        lstm(take(0), take(1), take(2), std::move(weights), 0, {}, door.fuse, door.flag,
             door.directions, {}, {}, door.cell, door.rates, door.precision);
    if (!door.flag) return {std::move(y), std::move(h_n), std::move(c_n)};
    return {std::move(y), std::move(h_n), std::move(c_n),
            std::move(h), std::move(c),   std::move(gates)};
  }
  auto [dx, dh0, dc0, dweights] = lstm_backward(
      take(0), take(1), take(2), take(3), take(4), take(5), std::move(weights), 0, {}, door.fuse,
      take(6), take(7), take(8), take(9), door.flag, door.directions, {}, {}, door.cell, door.rates,
      door.precision, 0, {}, {});
  Tensors gradients = {std::move(dx), std::move(dh0), std::move(dc0)};
  std::move(dweights.begin(), dweights.end(), std::back_inserter(gradients));
  return gradients;
}

// Returns the tensors of a tuple of weights; fewer, where one of them is left to the dispatcher.
Tensors weights_of(Object* tuple, const Door& door) {
  Tensors weights;
  const intptr_t count = PyTuple_Size(tuple);
  weights.reserve(count);
  for (intptr_t k = 0; k < count; ++k) {
    weights.push_back(tensor_of(PyTuple_GetItem(tuple, k), door));
    if (!weights.back().defined()) return {};
  }
  return weights;
}

template <class... Objects>
Object* tuple_of(Objects*... objects) {
  Object* const tuple = PyTuple_New(sizeof...(objects));
  intptr_t at = 0;
  (PyTuple_SetItem(tuple, at++, objects), ...);
  return tuple;
}

// (*tensors, weights) -> the operator's results, or None.
Object* call_operator(const Door& door, Object* const* arguments) {
  Tensors operands(door.tensors()), weights = weights_of(arguments[door.tensors()], door);
  if (weights.empty()) return none();
  for (intptr_t k = 0; k < door.tensors(); ++k) {
    if (k < door.optional() && arguments[k] == door.none) continue;
    operands[k] = tensor_of(arguments[k], door);
    if (!operands[k].defined()) return none();
  }
  const Tensors results = run(door, std::move(operands), std::move(weights));
  Object* const tuple = PyTuple_New(results.size());
  for (size_t k = 0; k < results.size(); ++k) PyTuple_SetItem(tuple, k, object_of(results[k]));
  return tuple;
}

Tensor zeros(int64_t lanes, int64_t rows, int64_t columns, Dtype dtype) {
  const SmallShape shape{{lanes, rows, columns}, 3};
  const Tensor made = empty(shape, dtype);
  std::memset(made.data(), 0, bytes_of(shape, dtype));
  return made;
}

// (input, hx, weights) -> what a layer or a cell returns, or None.
Object* call_layer(const Door& door, Object* const* arguments) {
  const Layer& layer = door.layer;
  Object* const hx = arguments[1];
  const int64_t dimensions = layer.is_cell ? 2 : 3;
  bool usual = true;
  const auto operand = [&](Object* object, int64_t columns) {
    Tensor tensor = tensor_of(object, door);
    usual = usual && tensor.defined() && tensor.dim() == dimensions &&
            tensor.size(dimensions - 1) == columns;
    return usual && layer.is_cell ? tensor.as_step() : tensor;
  };
  Tensor x = operand(arguments[0], layer.inputs), h0, c0;
  if (!usual || x.numel() == 0) return none();
  if (layer.batch_first) x = x.transposed();
  if (hx == door.none) {
    c0 = zeros(layer.lanes, x.size(1), layer.columns, x.dtype());
    h0 = layer.outputs == layer.columns ? c0 : zeros(layer.lanes, x.size(1), layer.outputs, x.dtype());
  } else if (!layer.has_c) {
    h0 = c0 = operand(hx, layer.outputs);
  } else if (PyTuple_Size(hx) == 2) {
    h0 = operand(PyTuple_GetItem(hx, 0), layer.outputs);
    c0 = operand(PyTuple_GetItem(hx, 1), layer.columns);
  } else {
    PyErr_Clear();  // of what is no tuple
    return none();
  }
  Tensors weights = weights_of(arguments[2], door);
  if (!usual || weights.empty() || h0.size(0) != layer.lanes) return none();
  Tensors tensors(3);
  tensors[0] = std::move(x), tensors[1] = std::move(h0), tensors[2] = std::move(c0);
  const Tensors results = run(door, std::move(tensors), std::move(weights));
  const auto state = [&](size_t index) {
    return object_of(layer.is_cell ? results[index].of_step() : results[index]);
  };
  Object* const last = layer.has_c ? tuple_of(state(1), state(2)) : state(1);
  if (layer.is_cell) return last;
  return tuple_of(object_of(layer.batch_first ? results[0].transposed() : results[0]), last);
}

template <Object* (*body)(const Door&, Object* const*)>
Object* call(Object* self, Object* const* arguments, intptr_t) {
  try {
    return body(*static_cast<const Door*>(PyCapsule_GetPointer(self, capsule_name)), arguments);
  } catch (const std::exception&) {  // the operator says it
    PyErr_Clear();
    return none();
  }
}

// Python's PyMethodDef, of a function that is given its arguments as an array (METH_FASTCALL).
struct Method {
  const char* name;
  Object* (*function)(Object* self, Object* const* arguments, intptr_t count);
  int flags;
  const char* documentation;
};
Method of_operator = {"door", call<call_operator>, 0x80, "door(*tensors, weights) -> results or None"};
Method of_layer = {"door", call<call_layer>, 0x80, "door(input, hx, weights) -> results or None"};

}  // namespace
}  // namespace fused_lstm

// Returns a function of Python, or None where there is no door. of: a number of Door's operators. precision:
// null, or a word. layer: null, or that the door takes a layer's arguments.
extern "C" Object* fused_lstm_door(Object* tensor, Object* parameter, int of, bool flag,
                                   int64_t directions, const char* cell, const char* fuse,
                                   const double* rates, int64_t count, const char* precision,
                                   const fused_lstm::Layer* layer) {
  using namespace fused_lstm;
  if (!torch_tensor_from_pyobject) return none();
  const PrecisionOverride word = precision ? PrecisionOverride(precision) : std::nullopt;
  auto* const door = new Door{static_cast<Door::Operator>(of), flag, directions, cell, fuse,
                              {rates, rates + count}, word, layer ? *layer : Layer{}, tensor,
                              parameter, none()};
  Object* const capsule = PyCapsule_New(door, capsule_name, [](Object* self) {
    delete static_cast<const Door*>(PyCapsule_GetPointer(self, capsule_name));
  });
  Object* const function = PyCFunction_NewEx(layer ? &of_layer : &of_operator, capsule, nullptr);
  Py_DecRef(capsule);
  return function;
}

#endif
