"""A profile: what one model costs on one machine, as measured, published or derived."""

from __future__ import annotations

import difflib
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType

from rlkv_engine.errors import InputError

#: Block ids and token counts travel as int32.
MAX_COUNT = 2**31 - 1
MAX_FLOAT = sys.float_info.max

_SHIPPED_DIR = Path(__file__).parent / "profiles"
_SCALE_SUFFIX = re.compile(r"\+(host|link)([0-9.]+(?:e[+-]?[0-9]+)?)$")


def _at_least(minimum: int | float, unit: str) -> dict[str, object]:
    """Metadata of a field whose smallest value is ``minimum``."""
    return {"minimum": minimum, "above": False, "unit": unit}


def _above(minimum: float, unit: str) -> dict[str, object]:
    """Metadata of a field that must be larger than ``minimum``."""
    return {"minimum": minimum, "above": True, "unit": unit}


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs and sizes of one model on one machine.

    The time of one iteration, in seconds, is::

        iteration_s
        + prefill_iteration_s, where p > 0
        + wake_s, where the batch before was empty
        + prefill_token_s * p
        + prefill_token_context_s * (sum over those p tokens of the tokens before each)
        + decode_session_s * d
        + kv_token_s * (KV tokens that the d sessions read)
        + copy_iteration_s + copy_block_s * c, where c > 0

    with p prefill tokens and d decoding sessions, one token each. Copies between the tiers run
    beside it, c blocks of them; ``shared_link`` says whether the two directions share one budget of
    time per iteration or each have their own. One that only copies, with an empty batch, takes
    ``copy_only_iteration_s``; where that is 0, ``iteration_s``.

    The fields with a default may be missing from a file: they are costs that a published profile
    does not tell apart from the others.

    Every value of ``sources`` says where the number of that field comes from.
    """

    name: str
    description: str
    block_size: int = field(metadata=_at_least(1, "tokens"))
    kv_bytes_per_token: int = field(metadata=_at_least(1, "B/token"))
    num_device_blocks: int = field(metadata=_at_least(1, "blocks"))
    num_host_blocks: int = field(metadata=_at_least(0, "blocks"))
    iteration_s: float = field(metadata=_above(0, "s"))
    prefill_token_s: float = field(metadata=_above(0, "s/token"))
    prefill_token_context_s: float = field(metadata=_at_least(0, "s/token²"))
    decode_session_s: float = field(metadata=_at_least(0, "s/session"))
    kv_token_s: float = field(metadata=_at_least(0, "s/token"))
    swap_out_bytes_per_s: float = field(metadata=_above(0, "B/s"))
    swap_in_bytes_per_s: float = field(metadata=_above(0, "B/s"))
    swap_latency_s: float = field(metadata=_at_least(0, "s"))
    shared_link: bool = field(metadata={"unit": ""})
    max_num_seqs: int = field(metadata=_at_least(1, "sessions"))
    max_num_batched_tokens: int = field(metadata=_at_least(1, "tokens"))
    prefill_iteration_s: float = field(default=0.0, metadata=_at_least(0, "s"))
    wake_s: float = field(default=0.0, metadata=_at_least(0, "s"))
    copy_iteration_s: float = field(default=0.0, metadata=_at_least(0, "s"))
    copy_block_s: float = field(default=0.0, metadata=_at_least(0, "s/block"))
    copy_only_iteration_s: float = field(default=0.0, metadata=_at_least(0, "s"))
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ``InputError`` naming the first field that cannot be."""
        problem = _find_problem({f.name: getattr(self, f.name) for f in fields(self)})
        if problem is not None:
            raise InputError(problem[1], path=f"profile {self.name}")

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of KV, all layers."""
        return self.block_size * self.kv_bytes_per_token

    @property
    def device_tokens(self) -> int:
        """Tokens of KV that the device pool holds."""
        return self.num_device_blocks * self.block_size

    @property
    def device_kv_bytes(self) -> int:
        """Bytes of the device pool."""
        return self.num_device_blocks * self.block_bytes

    @property
    def host_kv_bytes(self) -> int:
        """Bytes of the host pool."""
        return self.num_host_blocks * self.block_bytes

    @property
    def swap_out_block_s(self) -> float:
        """Seconds of link time to copy one block to the host, latency excluded."""
        return self.block_bytes / self.swap_out_bytes_per_s

    @property
    def swap_in_block_s(self) -> float:
        """Seconds of link time to copy one block to the device, latency excluded."""
        return self.block_bytes / self.swap_in_bytes_per_s

    def recompute_s(self, tokens: int, context: int = 0) -> float:
        """Seconds to compute ``tokens`` behind ``context`` resident ones, alone on the engine.

        Chunks of ``max_num_batched_tokens``, each one iteration, nothing else in the batch.
        """
        num_chunks = -(-tokens // self.max_num_batched_tokens)
        token_contexts = tokens * context + tokens * (tokens - 1) / 2
        return (
            (self.iteration_s + self.prefill_iteration_s) * num_chunks
            + self.prefill_token_s * tokens
            + self.prefill_token_context_s * token_contexts
        )

    def scaled(self, host: float | None = None, link: float = 1.0) -> Profile:
        """The same model on a machine with another host pool or link.

        Args:
            host: Host pool as a multiple of the device pool, 0 for none; None keeps it.
            link: Factor on the bandwidth of both directions.

        Returns:
            A profile named after this one, as in ``name+host0.5+link0.125``; ``load_profile``
            understands that name.
        """
        path = f"profile {self.name}"
        for factor, value in (("host", host), ("link", link)):
            if value is not None and (problem := _factor_problem(factor, value)):
                raise InputError(problem, path=path)
        name, sources = self.name, dict(self.sources)
        num_host_blocks = self.num_host_blocks
        if host is not None:
            name += f"+host{_shortest(host)}"
            num_host_blocks = round(min(host * self.num_device_blocks, MAX_COUNT))
            if host > 0 and num_host_blocks == 0:
                raise InputError(f"a host pool of {host} has not one block", path=path)
            sources["num_host_blocks"] = f"{_shortest(host)} x num_device_blocks"
        if link != 1.0:
            name += f"+link{_shortest(link)}"
            for direction in ("swap_out_bytes_per_s", "swap_in_bytes_per_s"):
                sources[direction] = f"{_shortest(link)} x ({sources.get(direction, self.name)})"
        return replace(
            self,
            name=name,
            num_host_blocks=num_host_blocks,
            swap_out_bytes_per_s=self.swap_out_bytes_per_s * link,
            swap_in_bytes_per_s=self.swap_in_bytes_per_s * link,
            sources=sources,
        )


def _factor_problem(factor: str, value: object) -> str | None:
    """Why a scale factor cannot be; None if it can: a machine may do without a host tier."""
    may_be_0 = factor == "host"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (0 < value <= MAX_FLOAT or (may_be_0 and value == 0)):  # type: ignore[operator]
        return None
    bound = ", 0 or more" if may_be_0 else " above 0"
    return f"{factor} must be a finite factor{bound} (got {value!r})"


def _shortest(factor: float) -> str:
    """The factor as text that reads back exactly, without a trailing ``.0``."""
    return repr(float(factor)).removesuffix(".0")


#: Type of a field -> what is accepted for it, and what a message calls it.
_KINDS: dict[str, tuple[type | UnionType, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (int | float, "a number"),
    "bool": (bool, "true or false"),
}
_SCALARS = {f.name: f for f in fields(Profile) if f.name != "sources"}
_DEFAULTS = {name: f.default for name, f in _SCALARS.items() if f.default is not MISSING}


def _find_problem(values: Mapping[str, object]) -> tuple[str, str] | None:
    """The first field that cannot be, and a reason that names it; None if all can."""
    for name, spec in _SCALARS.items():
        value, (accepted, called) = values[name], _KINDS[str(spec.type)]
        if not isinstance(value, accepted) or (isinstance(value, bool) and accepted is not bool):
            return name, f"{name} must be {called} (got {value!r})"
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        minimum, above = spec.metadata["minimum"], spec.metadata["above"]
        if not value <= MAX_FLOAT or value < minimum or (above and value == minimum):
            bound = "above" if above else "at least"
            return name, f"{name} must be a finite number {bound} {minimum} (got {value})"
        if accepted is int and value > MAX_COUNT:
            return name, f"{name} must be at most {MAX_COUNT} (got {value})"
    max_tokens, max_seqs = values["max_num_batched_tokens"], values["max_num_seqs"]
    if isinstance(max_tokens, int) and isinstance(max_seqs, int) and max_tokens < max_seqs:
        return "max_num_batched_tokens", (
            f"max_num_batched_tokens ({max_tokens}) must be at least max_num_seqs ({max_seqs}):"
            " every decoding session takes a token of the iteration"
        )
    return None


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with rlkv, sorted."""
    return sorted(path.stem for path in _SHIPPED_DIR.glob("*.toml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """Reads a profile.

    Args:
        name_or_path: A shipped name or the path of a ``.toml``; a string may carry scale
            suffixes, as in ``gptj-6b-a100+host0.5+link0.125``.

    Raises:
        InputError: Naming the file, the line where there is one, and the value.
    """
    if isinstance(name_or_path, Path):
        return _read(name_or_path, ())
    base = name_or_path
    scales: list[tuple[str, str]] = []
    while match := _SCALE_SUFFIX.search(base):
        base = base[: match.start()]
        scales.insert(0, (match[1], match[2]))
    profile = _read(_locate(base, Path()), ())
    for factor, text in scales:
        try:
            value = float(text)
        except ValueError:
            raise InputError(f"{factor}{text} is not a factor", path=name_or_path) from None
        profile = profile.scaled(host=value) if factor == "host" else profile.scaled(link=value)
    return profile


def _locate(name: str, folder: Path) -> Path:
    """The file of a shipped name, or of a path relative to ``folder``."""
    if name.endswith(".toml"):
        return folder / name
    shipped = shipped_profiles()
    if name not in shipped:
        raise InputError(
            f"no profile {name!r}: give the path of a .toml or one of {', '.join(shipped)}"
        )
    return _SHIPPED_DIR / f"{name}.toml"


def _read(path: Path, variants: tuple[Path, ...]) -> Profile:
    """Reads one file; ``variants`` are the files that name it as their base, outermost first."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})", path=path) from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        at_line = re.search(r"\(at line (\d+)", str(error))
        line = int(at_line[1]) if at_line else None
        raise InputError(f"is not TOML: {error}", path=path, line=line) from error

    def refuse(key: str, reason: str, table: str = "") -> InputError:
        return InputError(reason, path=path, line=_line_of(text, key, table))

    sources = document.pop("sources", {})
    if not isinstance(sources, dict):
        raise refuse("sources", "sources must be a table")
    for key, source in sources.items():
        if key not in _SCALARS or not isinstance(source, str):
            raise refuse(key, f"sources.{key} must be text about a field", "sources")
    known = [*_SCALARS, "base", "host", "link"]
    for key in document:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f", did you mean {close[0]}?" if close else ""
            raise refuse(key, f"unknown field {key!r}{hint}")

    values: dict[str, object] = {}
    if "base" in document:
        base = document.pop("base")
        if not isinstance(base, str):
            raise refuse("base", f"base must be text (got {base!r})")
        base_path = _locate(base, path.parent)
        if base_path.resolve() in (earlier.resolve() for earlier in (*variants, path)):
            raise refuse("base", f"base {base!r} leads back to this file")
        factors = {key: document.pop(key) for key in ("host", "link") if key in document}
        for key, value in factors.items():
            if problem := _factor_problem(key, value):
                raise refuse(key, problem)
        scaled = _read(base_path, (*variants, path)).scaled(**factors)
        inherited = _SCALARS.keys() - {"name", "description"}
        values = {key: getattr(scaled, key) for key in inherited}
        sources = {**scaled.sources, **sources}
    for key in ("host", "link"):
        if key in document:
            raise refuse(key, f"{key} scales a base, and there is none")
    values = _DEFAULTS | values | document
    missing = [key for key in _SCALARS if key not in values]
    if missing:
        raise InputError(f"missing field {', '.join(missing)}", path=path)
    bad_field = _find_problem(values)
    if bad_field is not None:
        raise refuse(*bad_field)
    for key, spec in _SCALARS.items():
        if spec.type == "float":
            values[key] = float(values[key])  # type: ignore[arg-type]
    return Profile(**values, sources=sources)  # type: ignore[arg-type]


def _line_of(text: str, key: str, table: str) -> int | None:
    """Line of ``key`` in ``table`` of a TOML text, "" being the top level; None if not found."""
    inside = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([^\]]*?)\s*\]", line):
            inside = header[1]
            if not table and inside == key:
                return number
        elif inside == table and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""", line):
            return number
    return None
