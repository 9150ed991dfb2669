"""The parts of the page and where they stand."""

from collections.abc import Sequence
from typing import Any

from ssm_train.apis.explore import answers, pictures
from ssm_train.apis.explore.answers import QUADTREES, TREES
from ssm_train.apis.explore.examples import Example
from ssm_train.apis.explore.looking import Explorer

HINT = "Choose a photo, or drop one of your own. Then click a pixel of any picture."
NOTHING = -1  # the number of no model
_OWN_SIDE = 0  # a model's own, that of the images which it is tested on
_SIDES = (224, 448, 896)  # pixels in which models can be shown a photo
_PREFERRED = "stage 2, block 1"  # its trees are fine enough to follow the photo, and coarse enough to see every edge

_ROWS = "<h4>Row by row</h4><p>The same weights</p><p>in a scan along the rows instead of the tree</p>"
_TREE_KEY = (
    f'<p class="key"><i style="background: {pictures.WAY}"></i> the way from the pixel to the root, which is the dot. '
    "The darker an edge, the nearer it is to the root; the thicker, the more tokens it joins to the root.</p>"
)


class Layout:
    """The parts of the page.

    Attributes:
        parts: what is drawn, by its name in :mod:`.answers`, which is also its id in the page.
        settings: what :func:`view_of` reads, in its order.
        others: by family, what is there only while two models are compared.
        by_family: by family, the parts that choose the model, what it is compared with, and the block.
    """

    def __init__(self, explorer: Explorer, examples: Sequence[Example]) -> None:
        import gradio as gr

        self.explorer = explorer
        self.parts: dict[str, Any] = {}
        self.others: dict[str, Any] = {}
        self.by_family: dict[str, tuple[Any, Any, Any]] = {}
        gr.HTML(
            "<h1>What state space models see</h1><p>MambaTree scans a photo along a tree that it grows over the photo. "
            "QuadMamba divides it into a quadtree. Click a pixel of any picture.</p>",
            elem_id="title",
        )
        with gr.Row(elem_id="all"):
            with gr.Column(scale=3, min_width=300, elem_id="beside"):
                self._photo(examples)
            with gr.Column(scale=8, min_width=300), gr.Tabs():
                with gr.Tab("MambaTree", id="trees"):
                    self._trees()
                with gr.Tab("QuadMamba", id="quadtrees"):
                    self._quadtrees()
        self.settings = [self.contrast, *self.by_family[TREES], *self.by_family[QUADTREES]]

    @property
    def pictures(self) -> list[Any]:
        """The pictures that can be clicked."""
        import gradio as gr

        return [part for part in self.parts.values() if isinstance(part, gr.Image)]

    def _photo(self, examples: Sequence[Example]) -> None:
        import gradio as gr

        self.examples = gr.Gallery(
            [(example.path, example.name) for example in examples], show_label=False, columns=4, object_fit="cover",
            allow_preview=False, interactive=False, buttons=[], elem_id="photos", elem_classes="small",
            visible=bool(examples),
        )  # fmt: skip
        self.file = gr.File(label="Your own photo", file_types=["image"], type="filepath", elem_id="file", height=130)
        self.parts["said"] = gr.Markdown(HINT, elem_id="said")
        self._picture("photo", "The photo")
        own = self.explorer.side
        sides = [(f"{side} × {side}", side) for side in sorted({*_SIDES, *([own] if own else [])})]
        self.side = gr.Radio(
            sides if own else [("as tested", _OWN_SIDE), *sides], value=own or _OWN_SIDE, elem_id="side",
            label="Pixels in which the networks see it",
        )  # fmt: skip
        self.parts["models"] = gr.HTML(elem_id="models")

    def _trees(self) -> None:
        import gradio as gr

        self._settings(TREES)
        with gr.Row():
            self._column("", "tree_words", ("tree", "tree_affinity"))
            self.others[TREES] = self._column("", "other_tree_words", ("other_tree", "other_tree_affinity"), False)
            self._column(_ROWS, "raster_words", ("raster", "raster_affinity"))
        gr.HTML(_TREE_KEY)
        self.parts["bar"] = gr.HTML(elem_id="bar")
        self.contrast = gr.Slider(
            0, 1, 0, step=0.05, label="Contrast of weak affinities", elem_id="contrast", buttons=[]
        )
        self._all("all_trees", "The tree of every block")
        self._all("all_affinities", "The affinity of the pixel in every block")

    def _quadtrees(self) -> None:
        import gradio as gr

        self._settings(QUADTREES)
        self._quadtree("")
        with gr.Column(visible=False) as self.others[QUADTREES]:
            self._quadtree("other_")
        self._all("all_quadtrees", "The quadtree and the scores of every block")

    def _quadtree(self, part: str) -> None:
        import gradio as gr

        self.parts[f"{part}quadtree_words"] = gr.HTML(elem_classes="words", elem_id=f"{part}quadtree_words")
        depths = {f"depth{depth}": f"Depth {depth}: {words}" for depth, words in enumerate(pictures.DEPTHS)}
        for row in (depths, {"scores": "The scores that choose which one", "order": "The scan, window after window"}):
            with gr.Row():
                for name, words in row.items():
                    with gr.Column(min_width=200):
                        self._picture(f"{part}{name}", words)

    def _settings(self, family: str) -> None:
        import gradio as gr

        models = answers.of_family(self.explorer, family)
        first = models[0][1]
        blocks = list(answers.blocks_of(self.explorer.models[first]))
        name = family.lower()
        with gr.Row():
            model = gr.Dropdown(models, value=first, label="Weights", elem_id=f"{name}_model", min_width=240)
            other = gr.Dropdown(
                [("nothing", NOTHING), *models], value=NOTHING, label="Compared with", elem_id=f"{name}_other",
                min_width=240,
            )  # fmt: skip
            block = gr.Dropdown(
                blocks, value=_PREFERRED if family == TREES and _PREFERRED in blocks else blocks[0], label="Block",
                elem_id=f"{name}_block", min_width=160,
            )  # fmt: skip
        self.by_family[family] = (model, other, block)

    def _column(self, words: str, words_name: str, names: Sequence[str], visible: bool = True) -> Any:
        import gradio as gr

        with gr.Column(min_width=240, visible=visible) as column:
            heading = gr.HTML(words, elem_classes="words", elem_id=words_name)
            if not words:
                self.parts[words_name] = heading
            for name in names:
                self._picture(name, "")
        return column

    def _picture(self, name: str, words: str) -> None:
        import gradio as gr

        self.parts[name] = gr.Image(
            label=words, show_label=bool(words), interactive=False, format="png", buttons=["fullscreen", "download"],
            elem_id=name, elem_classes="picture",
        )  # fmt: skip

    def _all(self, name: str, words: str) -> None:
        import gradio as gr

        gr.HTML(f"<h4>{words}</h4>", elem_classes="heading")
        self.parts[name] = gr.Gallery(
            show_label=False, columns=5, object_fit="contain", allow_preview=False, interactive=False, buttons=[],
            elem_id=name, elem_classes="small", format="png",
        )  # fmt: skip
