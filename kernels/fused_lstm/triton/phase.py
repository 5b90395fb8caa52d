"""The exchange of h without a barrier: each word says in one bit which step it is of.

Words of h for step t lie in slot t % 2, where they replace those for step t - 2. Their phase, a bit
of each, tells the two apart. A program stores its words of h(t-1) and goes on. In step t it loads
all words of its rows until each has the step's phase, and multiplies. So neither a fence, nor an
addition to a counter, nor a poll of it stands between h(t-1) and the product.

A word has 32 bits: an element of float32, or two of half precision, units 2n and 2n + 1. One store
writes it, so that no reader sees the phase without the value. The bit is free: of 13 that TF32 cuts
off the lowest; in half precision the highest of an exponent, which is 0 where |h| <= 1. There the
first element's is the phase. The second one's says that one of the two is a NaN, which has that bit
too. Its other bits are sent, and as no other value of these is above 1, it is a NaN again once a
reader sets the bit. Words without a NaN, nearly all, need no such look.

h0 may be any number. It lies in a third slot, which a row's first step reads without a look at
phases. Rows that begin late, in a lane backwards in time, count steps from their own first one, so
that zeros, with which the exchange begins, are no words of the first two steps of any row.

Why two slots are enough, where lanes do not depend on each other. Let program P store a word for
step s + 1, over the word for step s - 1 in the same slot. No program Q still waits for that one:

1. P's store comes after P's look at all words for step s of the block of rows: it ends in a sync of
   the program, and what P stores is computed of these words. One of them is Q's, as every program
   of a lane has units, and rows alive in a step are the same ones for all of its programs. In a
   row's first step P looks at none, and there is no word for step s - 1 either.
2. Q stored that word in step s - 1, after its own look at all words for step s - 1. It loads them
   no more: its loop has ended.

So a word in slot t % 2 is the one for t or the one before it, and never a later one. No access
needs an order with accesses to other addresses. Those of a word are strong: `st.relaxed.gpu`, and
`ld.volatile`, which PTX defines as ld.relaxed.sys, both of 32 bits (PTX ISA, "Memory consistency
model"). A vector of words is as many accesses.

Two things that Triton does. Of a tile with fewer elements than the program has threads several
threads load the same word, at different times, and the compiler takes the copies for equal:
`plan.has_phase` refuses such tiles. A volatile load in a loop that feeds a product directly becomes
a copy that is not: here another loop is between the two, and tests read the compiled code.
"""

from __future__ import annotations

import triton.language as tl

from . import position, tile
from .helper import helper

# Store a word where $3. The result is none.
STORE = tl.constexpr(
    """
    {
        .reg .pred exists;
        setp.ne.u32 exists, $3, 0;
        @exists st.relaxed.gpu.global.b32 [$1], $2;
        mov.u32 $0, 0;
    }
    """
)
TRAP = tl.constexpr(
    """
    {
        .reg .pred over;
        setp.eq.s32 over, $1, 0;
        @over trap;
        mov.u32 $0, 0;
    }
    """
)


@helper
def of_words(age, PLAN: tl.constexpr):
    """Return the phase of words for rows' steps number `age`, from 1 on, as a bit of a word."""
    return tl.where(((age + 1) >> 1) & 1 == 1, PLAN.PHASE_BIT, 0)


@helper
def word_ptr(exchange_ptr, slot, row, W: tl.constexpr, PLAN: tl.constexpr):
    """Return pointers to the first words of rows of batch [BLOCK_B] in a lane's slots."""
    word_ptr = exchange_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    return word_ptr + (slot * W.SLOT + row * W.PAD) // PLAN.PER_WORD


@helper
def give(
    h,  # [UNITS, BLOCK_B], rounded
    h_in_ptr,  # the lane's part of the exchange
    step,
    block,
    first_unit,  # of the block's
    rows,
    PLAN: tl.constexpr,
):
    """Store a block of h(t) as words for step t + 1."""
    W: tl.constexpr = PLAN.W_HH
    WORDS: tl.constexpr = PLAN.UNITS // PLAN.PER_WORD
    word = first_unit // PLAN.PER_WORD + tl.arange(0, WORDS)
    exists = (word < PLAN.PHASED)[:, None] & (block.b < step.alive)[None, :]
    if PLAN.PHASED * PLAN.PER_WORD > PLAN.P:
        # Behind the last unit h is 0 times what the step has read: a NaN if that is infinite.
        h = tl.where(block.mask, h, 0.0)
    if PLAN.PER_WORD == 1:
        bits = h.to(tl.int32, bitcast=True) & ~PLAN.PHASE_BIT
    else:
        halves = h.to(tl.uint16, bitcast=True).to(tl.uint32)
        halves = tl.permute(tl.reshape(halves, (WORDS, 2, PLAN.BLOCK_B)), (0, 2, 1))
        even, odd = tl.split(halves)
        bits = (even | (odd << 16)).to(tl.int32, bitcast=True) & ~PLAN.HIGHEST
        has_nan = ((bits + PLAN.ABOVE_1) & PLAN.HIGHEST) != 0
        bits |= tl.where(has_nan, PLAN.NAN_BIT, 0)
    bits |= of_words(position.age(step, block.b, rows, PLAN) + 1, PLAN)[None, :]
    ptr = word_ptr(h_in_ptr, (step.t & 1) ^ 1, block.b, W, PLAN)
    tl.inline_asm_elementwise(
        STORE, "=r,l,r,r,~{memory}", [ptr[None, :] + word[:, None], bits, exists.to(tl.int32)],
        tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@helper
def product(
    acc,  # as tile.product has it
    weight,  # what tile.load_weight gave: all resident
    h_in_ptr,  # the lane's part of the exchange
    now,  # the step's slot
    step,
    batch,
    rows,
    PLAN: tl.constexpr,
):
    """Return acc + w . h(t-1), once all of h(t-1) is there: the bits that tile.product gives."""
    W: tl.constexpr = PLAN.W_HH
    DTYPE: tl.constexpr = h_in_ptr.dtype.element_ty
    tiles, _, _, _ = weight
    b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
    age = position.age(step, b, rows, PLAN)
    exists = b < step.alive
    ptr = over_words(word_ptr(h_in_ptr, tl.where(age > 0, now, 2), b, W, PLAN), PLAN)
    # No bit of h0 is a phase, or a NaN's.
    phase = over_words(tl.where(age > 0, of_words(age, PLAN), 0), PLAN)
    nan = over_words(tl.where(age > 0, PLAN.NAN_BIT, 0), PLAN)
    above = over_words(tl.where(age > 0, PLAN.ABOVE_1, 0), PLAN)
    mask = over_words(tl.where((age > 0) & exists, PLAN.PHASE_BIT | PLAN.NAN_BIT, 0), PLAN)
    exists = over_words(exists, PLAN)
    words = load(ptr, exists, phase, W, PLAN)
    flags = flags_of(words, mask, W, PLAN)
    polls = tl.full((), PLAN.POLLS, tl.int32)
    while flags & PLAN.PHASE_BIT != 0:
        if PLAN.POLLS > 0:
            polls -= 1
            tl.inline_asm_elementwise(TRAP, "=r,r", [polls], tl.int32, is_pure=False, pack=1)
        words = load(ptr, exists, phase, W, PLAN)
        flags = flags_of(words, mask, W, PLAN)
    if PLAN.PER_WORD == 2 and flags != 0:
        words = with_nans(words, nan, above, W, PLAN)
    for i in tl.static_range(W.RESIDENT):
        acc = tile.multiply(tiles[i], values(words[i], DTYPE, PLAN), acc, PLAN.PRECISION)
    return acc


@helper
def over_words(x, PLAN: tl.constexpr):
    """Return a row's number [BLOCK_B] for each of its words in a chunk [., BLOCK_B]."""
    return x[None, :] if PLAN.K_PARTS == 1 else x[None, None, :]


@helper
def word_numbers(chunk, W: tl.constexpr, PLAN: tl.constexpr):
    """Return the numbers of a chunk's words in a row [., 1]."""
    STEP: tl.constexpr = PLAN.PART_K // PLAN.PER_WORD
    word = chunk * STEP + tl.arange(0, STEP)
    if PLAN.K_PARTS == 1:
        word = word[:, None]
    else:
        part = tl.arange(0, PLAN.K_PARTS)[:, None, None] * (W.K_PART // PLAN.PER_WORD)
        word = part + word[None, :, None]
    return word


@helper
def load(ptr, exists, phase, W: tl.constexpr, PLAN: tl.constexpr):
    """Load all words of rows, in chunks, without the phase that they should have."""
    words = ()
    for i in tl.static_range(W.RESIDENT):
        at = ptr + word_numbers(i, W, PLAN)
        words = words + (tl.load(at, mask=exists, other=0, volatile=True) ^ phase,)
    return words


@helper
def flags_of(words, mask, W: tl.constexpr, PLAN: tl.constexpr):
    """Return the bits of `mask` that any word has: one with a wrong phase, one with a NaN."""
    flags = words[0] & 0
    for i in tl.static_range(W.RESIDENT):
        of_chunk = words[i]
        if W.PAD - W.K_PART + (i + 1) * PLAN.PART_K > PLAN.PHASED * PLAN.PER_WORD:
            of_chunk = tl.where(word_numbers(i, W, PLAN) < PLAN.PHASED, of_chunk, 0)
        flags |= of_chunk
    return tl.reduce(flags & mask, None, either)


@helper
def with_nans(words, nan, above, W: tl.constexpr, PLAN: tl.constexpr):
    """Return words with their NaNs: what is above 1 has the highest bit of its exponent set."""
    lifted = ()
    for i in tl.static_range(W.RESIDENT):
        word = words[i] & ~nan
        lifted = lifted + (word | ((word + above) & PLAN.HIGHEST),)
    return lifted


@helper
def either(a, b):
    """Return bits that are set in one of two words."""
    return a | b


@helper
def values(bits, DTYPE: tl.constexpr, PLAN: tl.constexpr):
    """Return a chunk's elements of h, of its words."""
    if PLAN.PER_WORD == 1:
        x = bits.to(tl.float32, bitcast=True)
    else:
        bits = bits.to(tl.uint32, bitcast=True)
        both = tl.join((bits & 0xFFFF).to(tl.uint16), (bits >> 16).to(tl.uint16))
        if PLAN.K_PARTS == 1:
            both = tl.permute(both, (0, 2, 1))
            x = tl.reshape(both, (PLAN.BLOCK_K, PLAN.BLOCK_B))
        else:
            both = tl.permute(both, (0, 1, 3, 2))
            x = tl.reshape(both, (PLAN.K_PARTS, PLAN.PART_K, PLAN.BLOCK_B))
        # Triton 3.6 takes what comes of a join for operands of 8 bits, and multiplies in another
        # order. An operation with effects ends its look.
        x = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [x], tl.uint16, is_pure=False, pack=2
        )
        x = x.to(DTYPE, bitcast=True)
    return x
