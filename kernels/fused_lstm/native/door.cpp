// A door from Python to the operators `lstm`, `lstm_backward` and `prepared_lstm`, past PyTorch's dispatcher,
// which takes more time than a small step. fused_lstm/call/door.py says when it may be taken. A call that it
// does not take, or that is refused, goes to the operator, which says why.
#include <algorithm>
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

// What a door is told when it is made: the operator, those of its arguments that are not tensors, and the
// types of Python's that its tensors may have.
struct Told {
  enum Operator { prepared, forward, backward };

  Operator of;
  bool flag;  // weight_only of `prepared_lstm`, save of `lstm`, needs_dx of `lstm_backward`
  int64_t directions;
  std::string cell, fuse;
  std::vector<double> rates;
  PrecisionOverride precision;
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
Tensor tensor_of(Object* object, const Told& told) {
  Object* const type = PyObject_Type(object);
  Py_DecRef(type);  // the object has another
  if (type != told.tensor && type != told.parameter) return Tensor();
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_tensor_from_pyobject(object, &handle));
  Tensor tensor(handle);
  const int64_t last = tensor.dim() - 1;
  const bool usual = last >= 0 && tensor.size(last) > 1 && tensor.stride(last) == 1;
  return usual || tensor.numel() == 0 ? tensor : Tensor();
}

Object* object_of(const Tensor& tensor) {
  Object* object = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_tensor_to_pyobject(tensor.get(), nullptr, &object));
  return object;
}

// Returns what an operator does, in a row: y, h_n, c_n, of a call that saves also h, c, gates; or dx, dh0, dc0
// and each weight's gradient.
Tensors run(const Told& told, Tensors given, Tensors weights) {
  const Unlocked unlocked;
  const auto take = [&](size_t index) { return std::move(given[index]); };
  if (told.of == Told::prepared) {
    auto [y, h_n, c_n] = prepared_lstm(take(0), take(1), take(2), std::move(weights), told.directions,
                                       {}, {}, told.cell, told.flag);
    return {std::move(y), std::move(h_n), std::move(c_n)};
  }
  if (told.of == Told::forward) {
    auto [y, h_n, c_n, h, c, gates] =
        lstm(take(0), take(1), take(2), std::move(weights), 0, {}, told.fuse, told.flag,
             told.directions, {}, {}, told.cell, told.rates, told.precision);
    if (!told.flag) return {std::move(y), std::move(h_n), std::move(c_n)};
    return {std::move(y), std::move(h_n), std::move(c_n),
            std::move(h), std::move(c),   std::move(gates)};
  }
  auto [dx, dh0, dc0, dweights] = lstm_backward(
      take(0), take(1), take(2), take(3), take(4), take(5), std::move(weights), 0, {}, told.fuse,
      take(6), take(7), take(8), take(9), told.flag, told.directions, {}, {}, told.cell, told.rates,
      told.precision, 0, {}, {});
  Tensors gradients = {std::move(dx), std::move(dh0), std::move(dc0)};
  std::move(dweights.begin(), dweights.end(), std::back_inserter(gradients));
  return gradients;
}

// door(tensors..., weights) -> the results, or None; weights: a tuple.
Object* called(const Told& told, Object* const* arguments) {
  Object* const last = arguments[told.tensors()];
  Tensors given(told.tensors()), weights(PyTuple_Size(last));
  for (intptr_t k = 0; k < told.tensors(); ++k) {
    if (k < told.optional() && arguments[k] == told.none) continue;
    given[k] = tensor_of(arguments[k], told);
    if (!given[k].defined()) return none();
  }
  for (size_t k = 0; k < weights.size(); ++k) {
    weights[k] = tensor_of(PyTuple_GetItem(last, k), told);
    if (!weights[k].defined()) return none();
  }
  const Tensors results = run(told, std::move(given), std::move(weights));
  Object* const tuple = PyTuple_New(results.size());
  for (size_t k = 0; k < results.size(); ++k) PyTuple_SetItem(tuple, k, object_of(results[k]));
  return tuple;
}

Object* call(Object* self, Object* const* arguments, intptr_t count) {
  try {
    const auto* const told = static_cast<const Told*>(PyCapsule_GetPointer(self, capsule_name));
    if (count == told->tensors() + 1) return called(*told, arguments);
  } catch (const std::exception&) {  // the operator says it
    PyErr_Clear();
  }
  return none();
}

// Python's PyMethodDef, of a function that is given its arguments as an array (METH_FASTCALL).
struct Method {
  const char* name;
  Object* (*function)(Object* self, Object* const* arguments, intptr_t count);
  int flags;
  const char* documentation;
} method = {"door", call, 0x80, "door(*tensors, weights: tuple) -> the operator's results, or None"};

}  // namespace
}  // namespace fused_lstm

// Returns a function of Python, or None where there is no door. of: 0 to 2, Told's operators. precision: null,
// or a word.
extern "C" Object* fused_lstm_door(Object* tensor, Object* parameter, int of, bool flag,
                                   int64_t directions, const char* cell, const char* fuse,
                                   const double* rates, int64_t count, const char* precision) {
  using namespace fused_lstm;
  if (!torch_tensor_from_pyobject) return none();
  const PrecisionOverride word = precision ? PrecisionOverride(precision) : std::nullopt;
  auto* const told = new Told{static_cast<Told::Operator>(of), flag, directions, cell, fuse,
                              {rates, rates + count}, word, tensor, parameter, none()};
  Object* const capsule = PyCapsule_New(told, capsule_name, [](Object* self) {
    delete static_cast<const Told*>(PyCapsule_GetPointer(self, capsule_name));
  });
  Object* const function = PyCFunction_NewEx(&method, capsule, nullptr);
  Py_DecRef(capsule);
  return function;
}

#endif
