"""Imports EGM (NVIDIA): a Qwen3-VL that answers in boxes, and any SAM that takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.bundles.bundle import Bundle
from engines.bundles.imports.language_model import LanguageModel, locate, set_chat_template
from engines.bundles.imports.publish import unfinished
from engines.bundles.imports.sam import read_sam
from engines.bundles.imports.vision_part import write_vision
from engines.bundles.manifest import MLLM, VISION, write_manifest
from engines.errors import CheckpointError
from engines.mllm.answer import AnswerFormat, AnswerTokens, DecisionQuestion, ReasoningBudgets
from engines.mllm.boxes import BoxFormat

MIN_PIXELS, MAX_PIXELS = 256 * 256, 1024 * 1024
MODEL_TYPE = "qwen3_vl"
"""No other Qwen-VL: Qwen2.5-VL's boxes are in pixels of the image as it was resized for it, not in thousandths."""

ANSWER = AnswerFormat(
    tokens=AnswerTokens(reference=None, modal=None, amodal=None, no_object=None),
    opening="<think>\n",
    decision_tail="\n\n{decision}",
    budgets=ReasoningBudgets(full=1024, brief=64),
    question=DecisionQuestion(),
    boxes=BoxFormat(),
)
"""Qwen3-VL's way of asking for boxes, with the part of the object that is wanted."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{- part.text -}}"
    "{%- else -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
)
"""Qwen3-VL's own template for such conversations, but for the assistant's text, which it would take apart and put
together anew: here the model goes on from that text exactly as it stands."""

Progress = Callable[[str], None]


def import_egm(
    checkpoint: str,
    sam: str,
    out: Path,
    *,
    name: str = "egm",
    max_pixels: int = MAX_PIXELS,
    progress: Progress = print,
) -> Bundle:
    """Make a bundle at `out`, whole or not at all.

    Args:
        checkpoint: the Qwen3-VL, a folder or a Hugging Face name such as ``nvidia/EGM-4B``; its weights are copied.
        sam: any SAM, as `read_sam` takes it.
        out: the bundle; one that is there is replaced.
        name: the model's name in the API.
        max_pixels: the largest image the language model sees.
        progress: hears what is being done.

    Raises:
        CheckpointError: a file is missing, damaged, or no Qwen3-VL's.
        BundleError: what was made is no bundle.
    """
    model, seer = LanguageModel.read(locate(checkpoint)), read_sam(sam)
    if (found := model.config.get("model_type")) != MODEL_TYPE:
        raise CheckpointError(f"{model.path}: a {found}, and EGM is a Qwen3-VL ({MODEL_TYPE})")
    with unfinished(out) as folder:
        image = model.image_config(MIN_PIXELS, max_pixels)
        model.copy_side_files(folder / MLLM, image)
        set_chat_template(folder / MLLM, CHAT_TEMPLATE)
        progress(f"{model.path.name}: copying the weights")
        model.copy_weights(folder / MLLM)
        write_vision(folder / VISION, seer)
        progress("digests")
        write_manifest(folder, name=name, grounder="egm", answer=ANSWER, mllm_image=image)
        Bundle.load(folder, verify=False)
    return Bundle.load(out, verify=False)
