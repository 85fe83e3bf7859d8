"""The ready-made intent sets: JSON files beside this module."""

from importlib import resources

import msgspec


class LabelledIntent(msgspec.Struct, frozen=True):
    name: str
    description: str
    examples: tuple[str, ...]


class IntentSet(msgspec.Struct, frozen=True):
    """`language` is a language tag such as `en` or `zh-TW`."""

    name: str
    language: str
    description: str
    intents: tuple[LabelledIntent, ...]

    def labelled(self) -> tuple[list[str], list[int]]:
        """All examples, and for each the index of its intent."""
        pairs = [(example, index) for index, intent in enumerate(self.intents) for example in intent.examples]
        return [example for example, _ in pairs], [index for _, index in pairs]


def ready_made_sets() -> tuple[IntentSet, ...]:
    """Every set that comes with the product, by name."""
    folder = resources.files("serving.intents") / "sets"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda f: f.name)
    return tuple(msgspec.json.decode(file.read_bytes(), type=IntentSet) for file in files)
