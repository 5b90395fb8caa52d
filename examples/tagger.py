"""A BiLSTM tagger on packed sentences of unequal length.

A word's tag says whether the word equals the first word of the sentence and whether it equals the
last one, so the task needs both directions. A sentence that has ended costs no work. Padded
sentences with `lengths=` give the same values.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fused_lstm

WORDS, TAGS = 5, 4


def sentence(generator):
    length = int(torch.randint(2, 9, (1,), generator=generator))
    words = torch.randint(WORDS, (length,), generator=generator)
    return words, 2 * (words == words[0]).long() + (words == words[-1]).long()


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        self.lstm = fused_lstm.LSTM(16, 32, bidirectional=True)
        self.out = nn.Linear(2 * 32, TAGS)

    def forward(self, words: PackedSequence):
        """Return the logits of every word of the batch [N, TAGS], in packed order."""
        embedded = words._replace(data=self.embedding(words.data))
        y, _ = self.lstm(embedded)
        return self.out(y.data)


torch.manual_seed(0)
generator = torch.Generator().manual_seed(1)
model = Tagger()
optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
for _ in range(80):
    words, tags = zip(*(sentence(generator) for _ in range(32)), strict=True)
    words = pack_sequence(words, enforce_sorted=False)
    tags = pack_sequence(tags, enforce_sorted=False).data  # the same order
    loss = F.cross_entropy(model(words), tags)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

words, tags = zip(*(sentence(generator) for _ in range(500)), strict=True)
found = model(pack_sequence(words, enforce_sorted=False)).argmax(1)
accuracy = (found == pack_sequence(tags, enforce_sorted=False).data).float().mean().item()
print(f"{accuracy:.0%} of the words are tagged right")

lengths = torch.tensor([len(one) for one in words])
padded = nn.utils.rnn.pad_sequence(words)  # [T, B], any order
y, (h_n, c_n) = model.lstm(model.embedding(padded), lengths=lengths)
packed, _ = model.lstm(pack_sequence([model.embedding(one) for one in words], enforce_sorted=False))
torch.testing.assert_close(y, nn.utils.rnn.pad_packed_sequence(packed, total_length=len(y))[0])
