"""Converts the vocabulary of ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B to transformers' fast tokenizer.

Writes a tokenizer.json that gives the same ids, and a chat template. No remote code is needed.
"""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer

from glmtune.errors import WeightsError
from glmtune.families.byte_vocabulary import fast_tokenizer
from glmtune.families.glm4_tokenizer import TOOLS_HEADING, TOOLS_USE
from glmtune.families.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, GLM4Tokenizer
from glmtune.families.vocabulary import read_vocabulary
from glmtune.files import write_json

# Commands that are plain words; the angle brackets keep them apart from English words.
BRACKETED = {"sop": "<sop>", "eop": "<eop>"}
# Jinja templates for the messages of `chat_prompt_ids`. Transformers encodes the text at once, the
# official code of ChatGLM3 in parts: the space before a content is the dummy one it gets there.
ROUNDS = """[gMASK]<sop>
{%- set said = namespace(before="", rounds=0, last="assistant") %}
{%- for message in messages %}
    {%- if message.role == "system" and said.last != "user" %}
        {%- set said.before = said.before + message.content + "\n" %}
    {%- elif message.role == "user" and said.last != "user" %}
        {%- set said.rounds = said.rounds + 1 %}
        {{- "[Round " ~ said.rounds ~ "]\n\n问：" ~ said.before ~ message.content ~ "\n\n答：" }}
        {%- set said.before = "" %}
        {%- set said.last = "user" %}
    {%- elif message.role == "assistant" and said.last == "user" %}
        {{- message.content ~ "\n\n" }}
        {%- set said.last = "assistant" %}
    {%- else %}
        {{- raise_exception("Questions (user) and answers (assistant) take turns.") }}
    {%- endif %}
{%- endfor %}"""
MESSAGES = """[gMASK]<sop>
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "system" and message.tools is defined %}
        {%- set content = content ~ "\n" ~ message.tools | tojson(indent=4) %}
    {%- endif %}
    {{- "<|" ~ message.role ~ "|>" ~ message.metadata | default("") ~ "\n" }}
    {{- " " ~ content if content else "" }}
{%- endfor %}
{{- "<|assistant|>" if add_generation_prompt else "" }}"""
GLM4_MESSAGES = """[gMASK]<sop>
{%- for message in messages %}
    {%- if message.tools %}
        {{- "<|system|>\n@HEADING@" }}
        {%- for tool in message.tools %}
            {%- set tool = tool.function if tool.function is defined else tool %}
            {{- "\n\n## " ~ tool.name ~ "\n\n" ~ tool | tojson(indent=4) ~ "\n@USE@" }}
        {%- endfor %}
    {%- endif %}
    {%- if message.content or not message.tools %}
        {{- "<|" ~ message.role ~ "|>" ~ message.metadata | default("") ~ "\n" }}
        {{- message.content }}
    {%- endif %}
{%- endfor %}
{{- "<|assistant|>" if add_generation_prompt else "" }}"""
GLM4_MESSAGES = GLM4_MESSAGES.replace("@HEADING@", TOOLS_HEADING.replace("\n", "\\n"))
GLM4_MESSAGES = GLM4_MESSAGES.replace("@USE@", TOOLS_USE)
CHAT_TEMPLATES = {
    ChatGLM2Tokenizer: ROUNDS,
    ChatGLM3Tokenizer: MESSAGES,
    GLM4Tokenizer: GLM4_MESSAGES,
}
# Texts that are easy to get wrong; both tokenizers must agree on them.
PROBES = (
    "",
    " ",
    "类型#裙*颜色#白色，风格#简约。",
    "  two  blanks\n\n\tand a tab\r\n ",
    "English, 中文 und Größe 1234567890 mixed",
    "😀👨\u200d👩\u200d👧 한국어 \u3000全角▁ \x00",
    "[gMASK] sop <|user|> </s> <unk> <0x41>",
)


def write_fast_tokenizer(
    vocabulary: Path,
    tokenizer: ChatGLM2Tokenizer | ChatGLM3Tokenizer | GLM4Tokenizer,
    folder: Path,
) -> None:
    """Write tokenizer.json and tokenizer_config.json, with a chat template, for AutoTokenizer.

    `vocabulary` is the file that `tokenizer` was read from. Raises WeightsError if the written one
    would not give the ids of `tokenizer`.
    """
    if isinstance(tokenizer, GLM4Tokenizer):
        fast, unknown, end = _byte_level(tokenizer)
    else:
        fast, unknown, end = _sentencepiece(read_vocabulary(vocabulary), tokenizer)
    fast.encode_special_tokens = True
    for text in PROBES:
        if fast.encode(text).ids != tokenizer.encode(text):
            raise WeightsError(
                f"{vocabulary.name}: as a tokenizer.json this vocabulary gives "
                f"different ids for {text!r}; expected BPE with byte fallback and no "
                "normalization, as published; use --format official"
            )
    fast.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({"unk_token": unknown} if unknown is not None else {}),
        "pad_token": unknown if unknown is not None else end,  # as in the official tokenizer
        "eos_token": end,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATES[type(tokenizer)],
    }
    write_json(folder / "tokenizer_config.json", settings)


def _byte_level(tokenizer: GLM4Tokenizer) -> tuple[FastTokenizer, None, str]:
    """Rebuild GLM-4's BPE, followed by its special tokens; no unknown token, and its end token."""
    fast, end = fast_tokenizer(tokenizer.ranks), "<|endoftext|>"
    fast.decoder = decoders.ByteLevel()
    _add_specials(fast, list(tokenizer.special_ids), tokenizer.special_ids, end)
    return fast, None, end


def _sentencepiece(
    processor: SentencePieceProcessor, tokenizer: ChatGLM2Tokenizer | ChatGLM3Tokenizer
) -> tuple[FastTokenizer, str, str]:
    """Rebuild sentencepiece's BPE, followed by the commands; also its unknown and end tokens."""
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    marks = [processor.unk_id(), processor.bos_id(), processor.eos_id()]
    fast = FastTokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_bpe_merges(processor, pieces),
            unk_token=pieces[processor.unk_id()],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    commands = {BRACKETED.get(name, name): i for name, i in tokenizer.special_ids.items()}
    unknown, end = pieces[processor.unk_id()], pieces[processor.eos_id()]
    ids = commands | {end: processor.eos_id()}
    _add_specials(fast, [*(pieces[i] for i in marks), *commands], ids, end)
    return fast, unknown, end


def _add_specials(fast: FastTokenizer, names: list[str], ids: dict[str, int], end: str) -> None:
    """Add special tokens, in the order of their ids, and the template around a text."""
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    fast.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A",
        pair=f"[gMASK] <sop> $A $B {end}",
        special_tokens=[(name, ids[name]) for name in ("[gMASK]", "<sop>", end)],
    )


def _bpe_merges(processor: SentencePieceProcessor, pieces: list[str]) -> list[tuple[str, str]]:
    """Every pair of pieces that forms a piece, best score first, as sentencepiece merges."""
    ordinary = {
        piece: processor.get_score(i)
        for i, piece in enumerate(pieces)
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }
    ranked = sorted(ordinary, key=lambda piece: -ordinary[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in ordinary and piece[cut:] in ordinary
    ]
