"""The page itself: what happens when a photo is chosen, a picture is clicked, or a setting is changed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_core.errors import DataError
from ssm_train.apis.explore import answers
from ssm_train.apis.explore.answers import QUADTREES, TREES, View
from ssm_train.apis.explore.examples import Example
from ssm_train.apis.explore.layout import HINT, NOTHING, Layout
from ssm_train.apis.explore.looking import Explorer, Photo, Pixel

if TYPE_CHECKING:
    import gradio

_LIFE = 3600  # seconds for which an uploaded file and a page's photo are kept

Kept = tuple[Photo, Pixel]  # what is kept while a page is open


class _Handlers:
    """What the page does: from the values of its parts to the new values of its parts.

    Args:
        explorer: the models.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer

    def choose(self, path: str | Path | None, side: int, *settings: Any) -> tuple[Kept | None, str]:
        """Look at a new photo, at first at its middle. An error becomes a sentence."""
        if path is None:
            return None, HINT
        try:
            photo = self.explorer.look(path, side or None, view_of(settings).models)
        except DataError as error:
            return None, _sentence(error)
        rows, columns = photo.shown.shape[:2]
        return (photo, (rows // 2, columns // 2)), ""

    def resize(self, kept: Kept | None, side: int, *settings: Any) -> tuple[Kept | None, str]:
        """Look at the same photo and pixel in another size."""
        if kept is None:
            return None, HINT
        found, said = self.choose(kept[0].path, side, *settings)
        return None if found is None else (found[0], kept[1]), said

    def move(self, kept: Kept | None, place: Sequence[int]) -> tuple[Kept | None, str]:
        """Go to the pixel (column, row) of a picture; a hint if the photo is no longer kept."""
        if kept is None:
            return None, HINT
        photo, (rows, columns) = kept[0], kept[0].shown.shape[:2]
        return (photo, (min(max(int(place[1]), 0), rows - 1), min(max(int(place[0]), 0), columns - 1))), ""

    def draw(self, functions: Sequence[Callable], names: Sequence[str]) -> Callable[..., list[Any]]:
        """The function that draws some parts of the page, from what is kept and the settings.

        Args:
            functions: of :mod:`.answers`, which draw these parts.
            names: of the parts.
        """
        import gradio as gr

        def drawn(kept: Kept | None, *settings: Any) -> list[Any]:
            found: dict[str, Any] = {}
            if kept is None:
                found["said"] = gr.skip()  # it says already what is wrong
            else:
                try:
                    for function in functions:
                        found |= function(self.explorer, *kept, view_of(settings))
                except DataError as error:  # a model that was chosen since cannot read the photo
                    found = {"said": _sentence(error)}
            return [found.get(name) for name in names]

        return drawn


def view_of(settings: Sequence[Any]) -> View:
    """The settings of the page from the values of their parts."""
    contrast, tree, other_tree, tree_block, quadtree, other_quadtree, quadtree_block = settings
    other_tree, other_quadtree = (None if number == NOTHING else number for number in (other_tree, other_quadtree))
    # The slider goes from 0 to 1, and the exponent from 1 to a tenth.
    return View(10**-contrast, tree, other_tree, tree_block, quadtree, other_quadtree, quadtree_block)


def _sentence(error: DataError) -> str:
    return f"**{str(error)[:1].upper()}{str(error)[1:]}.**"


def build_page(explorer: Explorer, examples: Sequence[Example], sessions: int) -> "gradio.Blocks":
    """The page. A photo that cannot be used is answered by a sentence on it.

    Args:
        explorer: the models.
        examples: the photos to choose from; the first one is shown at first.
        sessions: how many open pages can wait for an answer.
    """
    import gradio as gr

    handlers = _Handlers(explorer)
    with gr.Blocks(
        title="Tree-SSM explorer", analytics_enabled=False, delete_cache=(_LIFE, _LIFE), fill_width=True
    ) as page:
        layout = Layout(explorer, examples)
        _Events(handlers, layout).connect(page, examples)
    return page.queue(default_concurrency_limit=1, max_size=sessions)


_QUADTREE_PARTS = ("quadtree_words", "depth0", "depth1", "depth2", "scores", "order")


def _is_small(name: str) -> bool:
    return name.startswith("all_")


def _is_of_quadtree(name: str) -> bool:
    return name.removeprefix("other_") in _QUADTREE_PARTS


# What is drawn together, in this order: functions, and which parts of the page are theirs.
_STEPS: tuple[tuple[tuple[Callable, ...], Callable[[str], bool]], ...] = (
    ((answers.photo_parts, answers.tree_parts), lambda name: not (_is_small(name) or _is_of_quadtree(name))),
    ((answers.quadtree_parts,), _is_of_quadtree),
    ((answers.tree_blocks, answers.quadtree_blocks), _is_small),
)


class _Events:
    """What happens when something on the page is chosen or clicked.

    Args:
        handlers: what is done.
        layout: the parts of the page.
    """

    def __init__(self, handlers: _Handlers, layout: Layout) -> None:
        import gradio as gr

        self.handlers, self.layout = handlers, layout
        self.path, self.kept = gr.State(time_to_live=_LIFE), gr.State(time_to_live=_LIFE)
        self.quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def connect(self, page: "gradio.Blocks", examples: Sequence[Example]) -> None:
        """Connect all parts of a page with what they cause."""
        import gradio as gr

        layout, quiet = self.layout, self.quiet

        def example(event: gr.SelectData) -> str:  # Gradio reads the type of `event`
            return str(examples[event.index].path)

        def move(kept: Kept | None, event: gr.SelectData) -> tuple[Kept | None, str]:
            return self.handlers.move(kept, event.index)

        def first() -> str | None:
            return str(examples[0].path) if examples else None

        self._look(page.load(first, None, self.path, **quiet))
        self._look(layout.examples.select(example, None, self.path, **quiet))
        self._look(layout.file.change(lambda path: path, layout.file, self.path, **quiet))
        resize, found = [self.kept, layout.side, *layout.settings], [self.kept, layout.parts["said"]]
        self._draw(layout.side.input(self.handlers.resize, resize, found, **quiet))
        for picture in layout.pictures:
            self._draw(picture.select(move, self.kept, found, **quiet))
        self._draw(layout.contrast.release(lambda: None, **quiet))
        for family, (model, other, block) in layout.by_family.items():
            self._draw(model.input(self._blocks(family), [model, block], block, **quiet))
            self._draw(other.input(lambda number: gr.update(visible=number != NOTHING), other, layout.others[family],
                                   **quiet))  # fmt: skip
            self._draw(block.input(lambda: None, **quiet))
        for name, family in (("all_trees", TREES), ("all_affinities", TREES), ("all_quadtrees", QUADTREES)):
            model, _, block = layout.by_family[family]

            def chosen(number: int, event: gr.SelectData) -> str:
                return list(answers.blocks_of(self.handlers.explorer.models[number]))[event.index]

            self._draw(layout.parts[name].select(chosen, model, block, **quiet))

    def _look(self, event: Any) -> None:
        layout = self.layout
        inputs = [self.path, layout.side, *layout.settings]
        self._draw(event.then(self.handlers.choose, inputs, [self.kept, layout.parts["said"]], **self.quiet))

    def _draw(self, event: Any) -> None:
        """Draw everything after an event, what is seen at once first."""
        for functions, belongs in _STEPS:
            parts = {name: part for name, part in self.layout.parts.items() if belongs(name)}
            draw = self.handlers.draw(functions, list(parts))
            event = event.then(draw, [self.kept, *self.layout.settings], list(parts.values()), **self.quiet)

    def _blocks(self, family: str) -> Callable[[int, str], Any]:
        """The function that offers the blocks of a chosen model."""
        import gradio as gr

        def offered(number: int, chosen: str) -> Any:
            opened = self.handlers.explorer.models[number]
            blocks = answers.blocks_of(opened)
            name = answers.block_of(opened, chosen)
            return gr.update(choices=list(blocks), value=next(text for text in blocks if blocks[text] == name))

        return offered
