"""What a model's numbers are: initialised from a seed, read, written and recognised again."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from attrscore.core.code import is_plain, text_of
from attrscore.core.contracts import InputSpec
from attrscore.errors import AbsentError, ConfigError, DataError, did_you_mean, preview
from attrscore.models.record import TrainingRecord, damaged, head_of

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "model.", "_orig_mod.")
TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


def initialise(make: Callable[[], nn.Module], *, seed: int, weights: str | None) -> nn.Module:
    """The model of ``make``, drawn from ``seed``, weights loaded, in eval mode.

    torch's global random state is as it was before.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also reseed the accelerators, which are not forked here.
        torch.default_generator.manual_seed(seed)
        model = make()
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class ModelOfClasses:
    """Options of the models that are made for the classes of a dataset."""

    classes: int | None = None
    """Outputs; null: as many as the dataset has classes."""
    seed: int = 0
    """Of the initialisation."""
    weights: str | None = None
    """Path of a .safetensors or .pt/.pth state dict; null: untrained."""

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The model for a dataset, in eval mode."""
        return initialise(self._maker(spec), seed=self.seed, weights=self.weights)

    def _maker(self, spec: InputSpec) -> Callable[[], nn.Module]:
        """What makes the model, its library imported, so that importing draws nothing."""
        raise NotImplementedError

    def _outputs(self, spec: InputSpec) -> int:
        """K: as many as the dataset has classes, unless ``classes`` says otherwise.

        :raises ConfigError: neither says how many.
        """
        number = spec.classes if self.classes is None else self.classes
        if number < 1:
            raise ConfigError(
                "The dataset states no classes, so the model's outputs must be given: "
                "model.classes=... on the command line, classes=... in Python."
            )
        return number


def load_weights(
    model: nn.Module, path: str | Path, /, *, prefix: Mapping[str, str | None] | None = None
) -> None:
    """Fill ``model`` from a state dict: .safetensors, or .pt/.pth/.ckpt/.bin as tensors only.

    ``{"state_dict": ...}`` (a Lightning checkpoint) and ``{"model": ...}`` are opened, and prefixes
    that wrappers add (``module.``, ``model.``, ``_orig_mod.``) are removed where every name has
    them. ``prefix`` says what to do instead: names that begin with a key begin with its value
    afterwards, the longest key first, and are left out where that is None.

    :raises DataError: a file that is missing, damaged, holds pickled objects, or does not fit; the
        model is untouched then.
    :raises ConfigError: a prefix that no name has, or that makes two names one.
    """
    file = Path(path).expanduser()
    read = _read(file)
    state = _without_prefixes(read, model) if prefix is None else _renamed(read, prefix, file)
    own = model.state_dict()

    # Tied weights: a file may hold one of the names that share a tensor.
    shared = {own[name].data_ptr(): tensor for name, tensor in state.items() if name in own}
    missing = [
        name
        for name, tensor in own.items()
        if name not in state
        and (not tensor.numel() or tensor.data_ptr() not in shared)
        # A counter that only training with momentum=None reads; converters leave it out.
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    faults = [
        f"{len(names)} {kind} ({preview(names, most=3)})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if faults:
        raise DataError(
            f"{file} does not fit {type(model).__name__}: of {len(own)} tensors "
            f"{', '.join(faults)}. {_other_prefix(unexpected, missing)}Check that the model, its "
            "options, and the dataset's channels and classes are those of the training."
        )
    model.load_state_dict(state, strict=False)


def save_weights(
    model: nn.Module,
    path: str | Path,
    /,
    *,
    classes: Sequence[str] = (),
    record: TrainingRecord | None = None,
) -> None:
    """Write the state dict as safetensors, whole or not at all; the folder is made.

    ``classes``, the names of its outputs, are kept with it, and so is the ``record`` of its
    training, which has them too. Tensors that share memory are written once a name.

    :raises DataError: another suffix than .safetensors, or a state that is not only tensors.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() != ".safetensors":
        raise DataError(f"Weights are written as .safetensors; given: {file}.")
    state = model.state_dict()
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise DataError(
            f"The state of {type(model).__name__} is not only tensors: {preview(others)}; "
            "safetensors cannot hold the others."
        )
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    from attrscore.store.commit import commit, make_folder  # here: it loads pandas and h5py

    if record is None and classes:
        record = TrainingRecord(classes=tuple(classes))
    metadata = None if record is None else record.metadata()
    make_folder(file.parent)
    commit(file, safetensors.torch.save(tensors, metadata))


def fingerprint(model: nn.Module, /) -> str:
    """Hex digest of what a model computes with: its modules' code and settings, every tensor.

    Code is that of its classes and of what they call by name, but for torch's own; settings are
    plain attributes. The same on every device, and for a model before and after
    ``torch.compile``.
    """
    model = getattr(model, "_orig_mod", model)
    digest = hashlib.blake2b(digest_size=16)
    code: dict[Any, None] = {}
    for name, module in model.named_modules():
        kind = type(module)
        settings = re.sub(r" at 0x[0-9a-fA-F]+", "", module.extra_repr())
        digest.update(f"{name}|{kind.__module__}.{kind.__qualname__}|{settings}\n".encode())
        if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
            digest.update(_own_code(module).encode())
        for option, value in sorted(_settings(module).items()):
            if is_plain(value):
                digest.update(f"{option}={value!r}\n".encode())
            elif inspect.isroutine(value):
                digest.update(f"{option}={getattr(value, '__qualname__', '')}\n".encode())
                code[value] = None
        code[kind] = None
    digest.update(text_of(code).encode())
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):
            digest.update(f"{name}|{value!r}\n".encode())
            continue
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_code(module: nn.Module) -> str:
    """The text of a model that brings its own."""
    try:
        return str(module.code)
    except (AttributeError, RuntimeError):  # a part without a forward
        return ""


def _settings(module: nn.Module) -> dict[str, Any]:
    """Attributes that may change what a module computes; of torch's own, those it was made with."""
    kind = type(module)
    names = {name for name in vars(module) if name[0] != "_" and name != "training"}
    if kind.__module__.partition(".")[0] == "torch":
        names &= inspect.signature(kind.__init__).parameters.keys()
    return {name: vars(module)[name] for name in names}


def _read(file: Path) -> dict[str, Tensor]:
    suffix = check_file(file).suffix.lower()
    if suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except Exception as error:
            raise DataError(damaged(file, "safetensors file")) from error
    if suffix not in TORCH_SUFFIXES:
        raise AbsentError(
            f"{file} is not known as a file of weights; "
            f"expected: .safetensors, {', '.join(TORCH_SUFFIXES)}."
        )
    loaded = _torch_load(file)
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise DataError(
            f"{file} holds a {type(loaded).__name__}, not a state dict. "
            "Save model.state_dict() where the model was trained."
        )
    others = [name for name, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise DataError(
            f"{file} holds more than tensors: {preview(others)}. Expected a state dict, bare or "
            f"under one of the keys {', '.join(WRAPPERS)}."
        )
    return dict(loaded)


def _torch_load(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the error below says more
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        head = head_of(file)
        if "TorchScript" in str(error):
            raise DataError(
                f"{file} is TorchScript, a model and not its weights alone; it is read with "
                "model=torchscript model.weights=..., or save model.state_dict() for others."
            ) from error
        if isinstance(error, pickle.UnpicklingError) and head[:1] in (b"\x80", b"P"):
            named = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            what = f" ({named[1]})" if named else ""
            if _of_lightning(file):
                raise DataError(
                    f"{file} is a Lightning checkpoint with pickled objects beside its weights"
                    f"{what}: hyperparameters or callbacks. attrscore loads tensors only. Where it "
                    "was trained, say torch.save(torch.load(path, weights_only=False)"
                    "['state_dict'], 'weights.pt')."
                ) from error
            raise DataError(
                f"{file} holds pickled objects{what}; attrscore loads tensors only. Save "
                "model.state_dict() where the model was trained, and build the model with "
                "model=factory."
            ) from error
        raise DataError(damaged(file, "file of torch.save")) from error


def _of_lightning(file: Path) -> bool:
    """Whether a zip of torch.save has the key that Lightning writes into every checkpoint."""
    try:
        with zipfile.ZipFile(file) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return b"pytorch-lightning_version" in archive.read(pickled)
    except (OSError, StopIteration, zipfile.BadZipFile):
        return False


def _without_prefixes(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    own = model.state_dict()
    while True:
        prefix = next(
            (
                prefix
                for prefix in PREFIXES
                if state
                and all(name.startswith(prefix) for name in state)
                and not any(name.startswith(prefix) for name in own)
            ),
            None,
        )
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _renamed(
    state: dict[str, Tensor], prefix: Mapping[str, str | None], file: Path
) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    unused = set(prefix)
    for name, tensor in state.items():
        begin = max((each for each in prefix if name.startswith(each)), key=len, default=None)
        new: str | None = name
        if begin is not None:
            unused.discard(begin)
            value = prefix[begin]
            new = None if value is None else value + name.removeprefix(begin)
        if new is not None and new in renamed:
            raise ConfigError(f"prefix={dict(prefix)} makes two tensors of {file} {new!r}.")
        if new is not None:
            renamed[new] = tensor
    if unused:
        firsts = sorted({name.partition(".")[0] + "." for name in state})
        raise ConfigError(
            f"No tensor of {file} begins with {preview(sorted(unused))}; they begin with "
            f"{preview(firsts)}."
        )
    return renamed


def _other_prefix(unexpected: list[str], missing: list[str]) -> str:
    """What to say where the names would fit without their beginning."""
    begins = Counter(
        name.removesuffix(own) for name in unexpected for own in missing if name.endswith(f".{own}")
    )
    if not begins:
        return ""
    likely, count = begins.most_common(1)[0]
    return (
        f"{count} fit without '{likely}': model.prefix={{{likely}: ''}} on the command line. "
        if 2 * count >= len(missing)
        else ""
    )


def check_file(path: str | Path, /) -> Path:
    """The path of a file that is there.

    :raises DataError: it is not, with the nearest names.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise AbsentError(_no_file(file))
    return file


def _no_file(file: Path) -> str:
    if file.is_dir():
        return f"{file} is a folder; expected a file of weights in it."
    if not file.parent.is_dir():
        return f"There is no file {file}: the folder {file.parent} does not exist."
    suffixes = (".safetensors", *TORCH_SUFFIXES)
    there = [f.name for f in file.parent.iterdir() if f.suffix.lower() in suffixes]
    return f"There is no file {file}. {did_you_mean(file.name, there)}"
