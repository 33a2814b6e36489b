"""What the command line is tried on: a base model of 2 random layers with a tokenizer of bytes, and small PDFs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

#: The fixture that runs the command.
Run = Callable[..., Result]
#: Long, so that a test can start an answer that would take minutes.
CONTEXT = 65_536
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_model(folder: Path) -> Path:
    """Write the model and its tokenizer; its answers are nonsense, always the same, and never end by themselves."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<s>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.5,
        tie_word_embeddings=False,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Only printable ASCII ever wins, so that answers are visible; a head of zeros gives a logit of 0.
        printable = [index for index, piece in enumerate(pieces) if len(piece) == 1 and "!" <= piece <= "~"]
        kept = model.lm_head.weight[printable].clone()
        model.lm_head.weight.zero_()
        model.lm_head.weight[printable] = kept
    model.save_pretrained(folder)
    return folder


def save_untrained_adapter(model_folder: Path, folder: Path) -> Path:
    """Write an adapter of the model whose candidates are copies of the base projections, for chunks of 256."""
    from focusdoc.modeling.adapter import untrained_adapter
    from focusdoc.modeling.adapter_files import save_adapter
    from focusdoc.modeling.base import load_base

    adapter = untrained_adapter(load_base(model_folder).model)
    adapter.config = adapter.config.model_copy(update={"chunk_size": 256})
    return save_adapter(adapter, folder)


def pdf(texts: list[str], *, password: str | None = None) -> bytes:
    """A PDF with a line of text on every page; an empty text makes a page without any, as a scan has."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    names = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    fonts = DictionaryObject(
        {NameObject("/F1"): DictionaryObject({NameObject(k): NameObject(v) for k, v in names.items()})}
    )
    for text in texts:
        page = writer.add_blank_page(width=612, height=792)
        if text:
            stream = DecodedStreamObject()
            stream.set_data(b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % text.encode("latin-1"))
            page[NameObject("/Contents")] = writer._add_object(stream)
            page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()
