"""The commands for a trained model, and what they all do when they are stopped."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from lm import checkpoint, evaluate, export, generate, plot
from lm.log import COLUMNS, FILE, read_log
from lm.train import main
from lm_cases import ROOT, SMALL, refused, train

FAST = ["--epochs=6", "--learning-rate=0.05", "--lr-decay=0.7", "--num-layers=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has learned a text of which each word tells the next; where, and its summary."""
    directory = tmp_path_factory.mktemp("trained")
    line = " ".join(f"w{n}" for n in range(11)) + "\n"
    for split, lines in {"train": 60, "valid": 5, "test": 5}.items():
        (directory / f"{split}.txt").write_text(line * lines)
    summary = train(directory, directory, *FAST, f"--save={directory / 'saved'}")
    return directory / "saved", summary


# --- evaluate ---


@pytest.mark.parametrize("engine", ["cudnn", "loop", "auto"])
def test_evaluate_finds_the_perplexity_of_the_run(trained, capsys, engine):
    directory, summary = trained
    assert evaluate.main([str(directory), f"--lstm={engine}"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(lines["perplexity"]) == pytest.approx(summary["test_perplexity"], rel=1e-3)
    assert lines["text"].endswith(", test: 60 tokens, 0 unknown")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_evaluate_with_prepared_weights(trained, capsys, dtype):
    directory, summary = trained
    assert evaluate.main([str(directory), f"--weights={dtype}"]) == 0
    value, close = float(capsys.readouterr().out.split()[-1]), 1e-3 if dtype == "float32" else 0.05
    assert value == pytest.approx(summary["test_perplexity"], rel=close)


def test_weights_of_another_cell_are_refused(trained, capsys, tmp_path):
    train(tmp_path, trained[0].parent, "--epochs=1", "--cell=slstm", "--lstm=native",
          f"--save={tmp_path}")  # fmt: skip
    capsys.readouterr()
    message = refused(capsys, evaluate.main, "evaluate", tmp_path, "--weights=int8")
    assert "--weights: got int8 with this model; expected an LSTM or a GRU" in message


def test_evaluate_another_text(trained, capsys, tmp_path):
    directory, summary = trained
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("w10 w9 w8 w7\n" * 20)
    assert evaluate.main([str(directory), f"--data={tmp_path}", "--split=valid", "--best"]) == 0
    out = capsys.readouterr().out
    assert float(out.split()[-1]) > 10 * summary["test_perplexity"]
    (tmp_path / "test.txt").write_text("w1 strange words\n")
    message = refused(capsys, evaluate.main, "evaluate", directory, f"--data={tmp_path}")
    assert "2 words are outside the vocabulary, which has no <unk>" in message


# --- generate ---


def test_generate_goes_on_as_the_text_does(trained, capsys):
    directory, _ = trained
    argv = [str(directory), "--prompt=w0 w1 w2 w3 w4", "--length=10", "--temperature=0"]
    assert generate.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.out == "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10\n w0 w1 w2\n"
    assert re.fullmatch(
        r"lm\.generate: first token after [\d.]+ ms, then [\d,]+ tokens per second\n",
        captured.err,
    )
    assert generate.main([str(directory), "--length=1"]) == 0
    alone = r"lm\.generate: first token after [\d.]+ ms\n"
    assert re.fullmatch(alone, capsys.readouterr().err)


def test_a_state_is_carried_without_a_copy(trained):
    """What the engine returned is what it is given again, and nothing is copied between."""
    model = checkpoint.load(trained[0]).model("auto").eval()
    given, made = [], []

    def keep(_, arguments, output):
        given.append(arguments[1])
        made.append(output[1])

    model.lstm.register_forward_hook(keep)
    words = generate.generate(model, [3, 4], torch.Generator())
    next(words)
    assert torch.is_grad_enabled()  # between two words the caller's mode is its own
    with torch.profiler.profile(record_shapes=True) as profile:
        next(words), next(words)
    assert len(given) == 3
    for last, now in zip(made, given[1:], strict=False):
        assert all(a is b for a, b in zip(last, now, strict=True))
    copies = [e for e in profile.events() if e.name in ("aten::copy_", "aten::clone")]
    assert copies  # of logits, to float64
    state = list(made[0][0].shape)
    assert not any(state in event.input_shapes for event in copies)


def test_a_seed_fixes_what_is_generated(trained, capsys):
    directory, _ = trained

    def text(*options):
        assert generate.main([str(directory), "--length=30", "--temperature=9", *options]) == 0
        return capsys.readouterr().out

    assert text("--seed=1") == text("--seed=1") != text("--seed=2")
    assert text("--top-k=1", "--seed=1") == text("--top-k=1", "--seed=2")


def test_the_carried_state_is_that_of_the_whole_text(trained):
    """Greedy words, a step at a time, are those of a forward pass over everything before them."""
    directory, _ = trained
    model = checkpoint.load(directory).model("loop").eval()
    words = [3]
    for word, _ in zip(generate.generate(model, [3], torch.Generator(), 0.0), range(9)):  # noqa: B905
        logits, _ = model(torch.tensor(words)[:, None], model.init_hidden(1))
        assert word == int(logits[-1, 0].argmax())
        words.append(word)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 0), (2.0, 3), (1e-3, 0)])
def test_words_are_drawn_as_often_as_they_should(temperature, top_k):
    logits, generator = torch.tensor([0.0, 1.0, 2.0, -1.0, 1.5]), torch.Generator().manual_seed(0)
    drawn = [generate.choose(logits, generator, temperature, top_k) for _ in range(4000)]
    scaled = logits / temperature
    if top_k:
        scaled[logits < logits.topk(top_k).values.min()] = -math.inf
    found = torch.bincount(torch.tensor(drawn), minlength=5) / 4000
    # Chance, not rounding: four standard deviations of 4,000 draws.
    torch.testing.assert_close(found, scaled.softmax(0), rtol=0, atol=0.03)


def test_next_to_no_temperature_is_none():
    """A number that is 0 in float32, where the words' own would be no numbers."""
    logits, generator = torch.tensor([0.0, 2.0, 1.0]), torch.Generator()
    assert [generate.choose(logits, generator, 1e-320, 0) for _ in range(9)] == [1] * 9


def test_a_prompt_becomes_ids():
    vocabulary = ["<eos>", "<unk>", "the", "N", "."]
    assert generate.encode_prompt("The cat. N", vocabulary) == [0, 2, 1, 4, 3]
    assert generate.encode_prompt("", vocabulary) == [0]


def test_a_prompt_outside_the_vocabulary_is_named(trained, capsys):
    message = refused(capsys, generate.main, "generate", trained[0], "--prompt=w1 cat")
    assert "--prompt: 'cat' is outside the vocabulary, which has no <unk>" in message


# --- export ---


def test_exported_weights_are_nn_lstms(trained, tmp_path, capsys):
    directory, _ = trained
    file = tmp_path / "lm.safetensors"
    assert export.main([str(directory), f"--output={file}"]) == 0
    used = {}
    exec(capsys.readouterr().out.partition("To use it:\n")[2], used)
    model = checkpoint.load(directory).model("loop")
    assert isinstance(used["lstm"], nn.LSTM)
    x = torch.randn(4, 3, 16)
    torch.testing.assert_close(used["lstm"](x)[0], model.lstm(x)[0])
    with safetensors.safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["vocabulary"])[:2] == ["<eos>", "w0"]
        assert set(opened.keys()) == set(model.state_dict())


def test_an_exported_program_runs_a_step(trained, tmp_path):
    directory, _ = trained
    file = tmp_path / "lm.pt2"
    assert export.main([str(directory), f"--output={file}"]) == 0
    program = torch.export.load(file).module()
    model = checkpoint.load(directory).model("loop").eval()
    for batch in (1, 4):
        inputs, hidden = torch.randint(12, (1, batch)), model.init_hidden(batch)
        hidden = tuple(torch.randn_like(state) for state in hidden)
        torch.testing.assert_close(program(inputs, hidden), model(inputs, hidden))


def test_a_folder_in_the_hubs_layout(trained, tmp_path, monkeypatch, capsys):
    directory, _ = trained
    folder, pushed = tmp_path / "model", []
    hub = SimpleNamespace(
        create_repo=lambda name, exist_ok: pushed.append(name),
        upload_folder=lambda repo_id, folder_path: f"hub/{repo_id}/{folder_path.name}",
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert export.main([str(directory), f"--output={folder}", "--push=me/model"]) == 0
    assert capsys.readouterr().out.endswith("hub/me/model/model\n")
    assert pushed == ["me/model"]
    files = {"model.safetensors", "config.json", "vocabulary.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == files
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["vocab_size"]) == (16, 12)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pytorch\n")
    monkeypatch.chdir(folder)
    used = {}
    exec(card.partition("```python\n")[2].partition("```")[0], used)
    x = torch.randn(4, 3, 16)
    expected = checkpoint.load(directory).model("loop").lstm(x)[0]
    torch.testing.assert_close(used["lstm"](x)[0], expected)
    message = refused(capsys, export.main, "export", directory, f"--output={folder}")
    assert "exists" in message
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    argv = [directory, f"--output={tmp_path / 'other'}", "--push=me/model"]
    assert export.main(list(map(str, argv))) == 2
    assert capsys.readouterr().err == (
        "lm.export: needs huggingface_hub: pip install huggingface_hub\n"
    )


def test_a_card_can_name_any_text(trained):
    saved = checkpoint.load(trained[0])
    options = saved.options | {"data": os.fsdecode(b"/texts/\xff")}
    card = export.export_folder(dataclasses.replace(saved, options=options))["README.md"]
    assert b"trained on \\udcff" in card


def test_export_knows_its_formats(trained, capsys):
    message = refused(capsys, export.main, "export", trained[0], "--output=model.bin")
    assert "got 'model.bin'; expected it to end in .safetensors, .pt2 or .pt" in message
    message = refused(capsys, export.main, "export", trained[0], "--output=lm.pt", "--compile")
    assert "--compile: got --output 'lm.pt'; expected it to end in .pt2" in message


@pytest.mark.filterwarnings("ignore:.*torch.jit.load. is deprecated")
def test_a_trace_for_cpp_says_how_to_use_it(trained, tmp_path, capsys):
    directory, _ = trained
    file, used = tmp_path / "lm.pt", {}
    assert export.main([str(directory), f"--output={file}"]) == 0
    inputs, model = torch.randint(12, (3, 2)), checkpoint.load(directory).model("loop").eval()
    used |= {"inputs": inputs, "h": torch.randn(2, 2, 16), "c": torch.randn(2, 2, 16)}
    expected = model(inputs, (used["h"], used["c"]))
    exec(capsys.readouterr().out.partition("To use it:\n")[2], used)
    torch.testing.assert_close(used["logits"], expected[0])


def test_compiling_without_a_compiler_is_refused(trained, monkeypatch, capsys):
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    message = refused(capsys, export.main, "export", trained[0], "--output=a.pt2", "--compile")
    assert "--compile: got no C++ compiler" in message


# --- what a run records ---


def test_the_log_has_a_line_for_each_of_the_runs(trained):
    directory, summary = trained
    rows = read_log(directory / FILE)
    splits = [row["split"] for row in rows]
    assert [splits.count(split) for split in ("train", "valid", "test")] == [60, 6, 1]
    assert [row["perplexity"] for row in rows if row["split"] == "valid"] == [
        point["valid_perplexity"] for point in summary["curve"]
    ]
    assert rows[-1]["perplexity"] == summary["test_perplexity"]
    last = next(row for row in reversed(rows) if row["split"] == "train")
    assert (last["step"], last["epoch"], last["words"]) == (210, 6, 210 * 20)
    assert 0 <= last["clip_fraction"] <= 1
    assert last["grad_norm"] > 0
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_half_a_line_that_a_kill_left_is_no_line(tmp_path, trained):
    content = (trained[0] / FILE).read_text()
    (tmp_path / "log.csv").write_text(content[:-9])
    assert len(read_log(tmp_path / "log.csv")) == content.count("\n") - 2


def test_weights_and_biases_has_the_curves(tmp_path, corpus_dir, monkeypatch, capsys):
    seen, told = [], {}

    class Run:
        def log(self, values, step):
            seen.append((step, values))

        def finish(self):
            seen.append("finished")

    def init(**about):
        told.update(about)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    summary = train(tmp_path, corpus_dir, "--epochs=2", "--wandb=runs")
    assert (told["project"], told["config"]["hidden_size"]) == ("runs", 16)
    assert seen.pop() == "finished"
    valid = [(s, v["perplexity/valid"]) for s, v in seen if "perplexity/valid" in v]
    assert valid == [(point["steps"], point["valid_perplexity"]) for point in summary["curve"]]
    assert {"perplexity/train", "grad_norm", "learning_rate"} <= seen[0][1].keys()
    monkeypatch.setitem(sys.modules, "wandb", None)
    argv = [f"--data={corpus_dir}", *SMALL.split(), "--lstm=cudnn", "--wandb=runs"]
    capsys.readouterr()
    assert main(argv) == 2
    assert capsys.readouterr().err == "lm.train: needs wandb: pip install wandb\n"


def test_plot(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    file = tmp_path / "curves.svg"
    other = tmp_path / "other.csv"
    other.write_bytes((trained[0] / FILE).read_bytes())
    assert plot.main([str(trained[0]), str(other), f"--output={file}", "--published=small"]) == 0
    assert capsys.readouterr().out == f"{file}: saved, other\n"
    assert "prefers-color-scheme: dark" in file.read_text()
    message = refused(capsys, plot.main, "plot", trained[0], f"--output={tmp_path / 'curves.txt'}")
    assert "--output: " in message


def test_a_run_of_one_line_is_drawn(tmp_path):
    """A line through one point shows nothing: it has a mark."""
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    row = dict.fromkeys(COLUMNS, "1") | {"split": "train"}
    (tmp_path / FILE).write_text(f"{','.join(COLUMNS)}\n{','.join(row.values())}\n")
    file = tmp_path / "curves.svg"
    assert plot.main([str(tmp_path), f"--output={file}"]) == 0
    colour = plot.COLOURS[0].lower()
    assert re.search(rf"<use [^>]*fill=\"{colour}\"", file.read_text())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("a,b\n1,2\n", "is no log of lm.train"),
        (",".join(COLUMNS) + "\n", "holds no figures yet"),
        (",".join(COLUMNS) + "\n" + ",".join("x" * 10) + "\n", "is no log of lm.train"),
    ],
    ids=["absent", "foreign", "empty", "damaged"],
)
def test_plot_refuses_what_is_no_log(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "log.csv").write_text(content)
    assert message in refused(capsys, plot.main, "plot", tmp_path / "log.csv")


@pytest.mark.parametrize("name", ["train", "evaluate", "generate", "plot"])
def test_a_missing_extra_is_one_line(tmp_path, name):
    """As beside a wheel of fused_lstm, which brings torch and numpy alone."""
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "hidden = 'tqdm', 'safetensors'\n"
        "util.find_spec = lambda name, *a: None if name in hidden else found(name, *a)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run(
        [sys.executable, "-m", f"lm.{name}"], cwd=ROOT, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr == (
        "lm: got no safetensors, tqdm; expected the extra 'lm': pip install safetensors tqdm"
        " filelock\n"
    )
