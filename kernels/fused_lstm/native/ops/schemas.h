// The operators' schemas, an empty line after each. module.cpp defines them, for processes without
// Python too; ops.py reads them here, for `triton` and where there is no library.
R"(
cell(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)

cell_backward(Tensor gates, Tensor c, Tensor c_next, Tensor dh, Tensor dc_next)
    -> (Tensor dgates, Tensor dc)

lstm(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, float dropout, Tensor? seed, str fuse,
    bool save, *, int directions=1, Tensor? batch_sizes=None, Tensor? not_reset=None, str cell='',
    float[] rates=[], str? precision=None)
    -> (Tensor y, Tensor h_n, Tensor c_n, Tensor h, Tensor c, Tensor gates)

lstm_backward(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor x, Tensor h0, Tensor c0,
    Tensor[] weights, float dropout, Tensor? seed, str fuse, Tensor y, Tensor h, Tensor c,
    Tensor gates, bool needs_dx, *, int directions=1, Tensor? batch_sizes=None, Tensor? not_reset=None,
    str cell='', float[] rates=[], str? precision=None, int samples=0)
    -> (Tensor dx, Tensor dh0, Tensor dc0, Tensor[] dweights)

linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor? row_grad,
    int ignore_index, str? precision=None)
    -> (Tensor loss, Tensor dhidden, Tensor dweight, Tensor dbias)

recurrence(Tensor x_part, Tensor h0, Tensor c0, Tensor weight_hh, Tensor? bias_m, str cell,
    bool save, *, bool reverse=False, Tensor? batch_sizes=None, Tensor? not_reset=None, float clip=0.,
    str? precision=None)
    -> (Tensor y, Tensor h_n, Tensor c_n, Tensor c, Tensor gates)

recurrence_backward(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor h0, Tensor c0,
    Tensor weight_hh, Tensor? bias_m, Tensor y, Tensor c, Tensor gates, str cell, *,
    bool reverse=False, Tensor? batch_sizes=None, Tensor? not_reset=None, float clip=0.,
    str? precision=None)
    -> (Tensor dx_part, Tensor dh0, Tensor dc0, Tensor dweight_hh, Tensor dbias_m)

dropout(Tensor x, float p, Tensor seed, int first=0) -> Tensor

packing(Tensor lengths, int steps, bool batch_first)
    -> (Tensor batch_sizes, Tensor order, Tensor back, Tensor places, Tensor back_places)

gather(Tensor x, Tensor index) -> Tensor

prepared_lstm(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, int directions,
    Tensor? batch_sizes, Tensor? not_reset, str cell, bool weight_only=False)
    -> (Tensor y, Tensor h_n, Tensor c_n)

on_large_pages(Tensor given) -> Tensor

isa_names(ScalarType? dtype=None) -> str[]

use_isa(str name) -> ()

isa() -> str

add_cell(str name, int[] shape, int[] functions) -> ()

release_memory() -> int

keep_memory(bool keep) -> ()

limit_team(int workers) -> ()

control_words() -> int[]

set_control_words(int[] words) -> ()

flush_bits() -> int
)"
