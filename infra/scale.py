"""How far a deployment of engines may grow, and what each replica of it reserves."""

from typing import Annotated

import msgspec

from infra.errors import StartupError

_Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class Scale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Written as words with a space between them: `min_replicas=1 max_replicas=4 gpu=0.5`.

    Attributes:
        min_replicas: how many there always are.
        max_replicas: how many there may be while calls ask for them; None is no more than `min_replicas`.
        in_flight: the calls in hand per replica that are aimed at between the two; None suits the engine.
        cpus: cores that a replica reserves; None is next to nothing, so that one machine has room for all.
        gpu: the part of a GPU that a replica reserves; None is the engine's usual part where there is a GPU.
    """

    min_replicas: _Count = 1
    max_replicas: _Count | None = None
    in_flight: Annotated[float, msgspec.Meta(gt=0, le=1024)] | None = None
    cpus: Annotated[float, msgspec.Meta(gt=0, le=1024)] | None = None
    gpu: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")


def words_of(text: str, name: str) -> dict[str, str]:
    """A scale as it is written, taken apart but not yet checked.

    Args:
        name: of the variable, for the message.

    Raises:
        StartupError: it is not made of `name=value`.
    """
    words = [word.partition("=") for word in text.split()]
    if not all(key and equals and value for key, equals, value in words):
        raise StartupError(f"{name} is not usable: write it as min_replicas=1 max_replicas=4 gpu=0.5")
    return {key: value for key, _, value in words}
