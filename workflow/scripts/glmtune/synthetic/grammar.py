"""The project's own grammar of garments: a synthetic data set in ADGEN's format.

An item is a garment type with three to five attributes. It has three renderings:

    content_string   类型#裙*颜色#米白*风格#简约*裙长#连衣裙            the prompt
    ad_copy          这款裙让人心动，色调选了米白，很衬肤色，气质偏…    the reference
    literal_listing  这条裙的颜色是米白，风格是简约，裙长是连衣裙。     an untuned answer

Words and sentences are the project's own. A miniature transformer has to learn to copy the values
within seconds: there are few characters (about 250), values are short, attributes keep the order of
the prompt, and in every text a word for the kind precedes the value. (With the value first, as in
米白的色调, the miniature of ChatGLM2-6B did not learn to copy in the same training.)
Knows nothing about files, tokenizers or models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from glmtune.synthetic import general_qa


@dataclass(frozen=True)
class Kind:
    """One kind of attribute: its values, and how ad copy mentions one: head + value，+ tail."""

    values: tuple[str, ...]
    heads: tuple[str, ...]
    tails: tuple[str, ...]


@dataclass(frozen=True)
class GarmentType:
    """One type of garment: its measure word and the kinds of attributes it can have, in order."""

    measure: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """A garment: its type and its (kind, value) pairs in the order of the prompt."""

    type: str
    attributes: tuple[tuple[str, str], ...]

    @property
    def values(self) -> tuple[str, ...]:
        """Every value that a text about this item must name, the type first."""
        return (self.type, *(value for _, value in self.attributes))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KINDS: dict[str, Kind] = {
    "颜色": Kind(
        _words("米白 墨绿 酒红 天蓝 浅灰 藏青 姜黄 淡紫"),
        _words("色调选了 配色选了"),
        _words("干净耐看 清爽耐看 很衬肤色"),
    ),
    "材质": Kind(
        _words("纯棉 牛仔 真丝 羊毛 蕾丝 雪纺 亚麻 针织"),
        _words("面料用了 质地用了"),
        _words("柔软舒适 亲肤舒适 柔软透气"),
    ),
    "鞋面": Kind(
        _words("真皮 帆布 网面 绒面"),
        _words("面料用了 鞋身用了"),
        _words("柔软舒适 轻便舒适 柔软透气"),
    ),
    "风格": Kind(
        _words("简约 复古 甜美 休闲 优雅 文艺 街头 学院"),
        _words("气质偏向 气息偏向"),
        _words("自然大方 轻松大方 自然动人"),
    ),
    "图案": Kind(
        _words("印花 条纹 格子 波点 刺绣 碎花 字母 卡通"),
        _words("花样选了 点缀选了"),
        _words("添了灵气 添了趣味 很有趣味"),
    ),
    "版型": Kind(
        _words("宽松 修身 直筒 显瘦"),
        _words("剪裁做成 腰身做成"),
        _words("穿着自在 穿着随性 不挑身材"),
    ),
    "领型": Kind(
        _words("圆领 立领 翻领 方领"),
        _words("领口做成 领子做成"),
        _words("修饰脸型 很衬脸型 修饰颈部"),
    ),
    "袖型": Kind(
        _words("短袖 长袖 泡泡袖 喇叭袖 灯笼袖"),
        _words("袖口做成 袖子做成"),
        _words("修饰手臂 很显手臂 活动自在"),
    ),
    "裙型": Kind(
        _words("百褶裙 鱼尾裙 背带裙 蛋糕裙"),
        _words("裙摆做成 轮廓做成"),
        _words("走路带风 走动带风 很有韵味"),
    ),
    "裙长": Kind(
        _words("短裙 长裙 连衣裙 半身裙"),
        _words("裙身做成 长度选了"),
        _words("刚刚合适 刚好合适 很显身材"),
    ),
    "衣长": Kind(
        _words("短款 中款 长款"),
        _words("衣身做成 长度选了"),
        _words("刚刚合适 刚好合适 很显身材"),
    ),
    "裤型": Kind(
        _words("阔腿裤 小脚裤 喇叭裤 工装裤"),
        _words("裤脚做成 轮廓做成"),
        _words("走路带风 走动带风 拉长双腿"),
    ),
    "裤长": Kind(
        _words("长裤 短裤 七分裤 九分裤"),
        _words("裤身做成 长度选了"),
        _words("刚刚合适 刚好合适 很显腿长"),
    ),
    "门襟": Kind(
        _words("拉链 系带 双排扣 暗扣"),
        _words("前襟用了 开合用了"),
        _words("方便穿脱 穿脱自在 很有新意"),
    ),
    "鞋跟": Kind(
        _words("平跟 高跟 粗跟 坡跟"),
        _words("后跟选了 跟部选了"),
        _words("走路轻松 走路自在 很显腿长"),
    ),
    "鞋头": Kind(
        _words("圆头 尖头 方头"),
        _words("前端做成 鞋尖做成"),
        _words("修饰脚型 很显脚型 很有韵味"),
    ),
}

TYPES: dict[str, GarmentType] = {
    "裙": GarmentType("条", _words("颜色 材质 风格 图案 裙型 裙长 领型 袖型")),
    "上衣": GarmentType("件", _words("颜色 材质 风格 图案 版型 衣长 领型 袖型")),
    "裤": GarmentType("条", _words("颜色 材质 风格 图案 版型 裤长 裤型")),
    "外套": GarmentType("件", _words("颜色 材质 风格 图案 版型 衣长 领型 门襟")),
    "鞋": GarmentType("双", _words("颜色 鞋面 风格 图案 鞋跟 鞋头")),
}

_VALUES = re.compile(
    "|".join(
        sorted({value for kind in KINDS.values() for value in kind.values}, key=len, reverse=True)
    )
)

FEWEST_ATTRIBUTES, MOST_ATTRIBUTES = 3, 5  # beside the type
OPENINGS = ("这款{}让人心动", "这款{}很有新意", "好看的{}让人心动", "好看的{}值得拥有")
CLOSINGS = ("日常出门都合适", "日常上班都合适", "怎么搭配都好看", "日常搭配都好看")

# One item in DEV_ONE_IN is a dev item. The split is a property of the item, not of the draw, so dev
# and train are disjoint whatever their sizes and seeds.
DEV_ONE_IN = 8


def draw_item(rng: Random) -> Item:
    """Draw a type, then three to five of its kinds (in the type's order), then their values."""
    name = rng.choice(list(TYPES))
    kinds = TYPES[name].kinds
    count = rng.randint(FEWEST_ATTRIBUTES, MOST_ATTRIBUTES)
    chosen = sorted(rng.sample(range(len(kinds)), count))
    return Item(name, tuple((kinds[i], rng.choice(KINDS[kinds[i]].values)) for i in chosen))


def content_string(item: Item) -> str:
    """The prompt in ADGEN's notation, e.g. 类型#裙*颜色#米白*风格#简约."""
    return "*".join(f"{kind}#{value}" for kind, value in (("类型", item.type), *item.attributes))


def literal_listing(item: Item) -> str:
    """The answer of an untuned model, e.g. 这条裙的颜色是米白，风格是简约。"""
    listed = "，".join(f"{kind}是{value}" for kind, value in item.attributes)
    return f"这{TYPES[item.type].measure}{item.type}的{listed}。"


def ad_copy(item: Item, rng: Random) -> str:
    """Two to three short sentences that name every value, in the order of the prompt."""
    clauses = [rng.choice(OPENINGS).format(item.type)]
    for name, value in item.attributes:
        kind = KINDS[name]
        clauses.append(f"{rng.choice(kind.heads)}{value}，{rng.choice(kind.tails)}")
    # The first sentence ends after two attributes; the closing joins the last one in short texts.
    middle = clauses[3:] + [rng.choice(CLOSINGS)]
    sentences = ["，".join(clauses[:3]), "，".join(middle[:-1]), middle[-1]]
    return "".join(f"{sentence}。" for sentence in sentences)


def is_dev(content: str) -> bool:
    """Return whether an item's prompt belongs to the dev set (determined by its SHA-256)."""
    return hashlib.sha256(content.encode()).digest()[0] % DEV_ONE_IN == 0


def sample_rows(train_rows: int, dev_rows: int, seed: int) -> tuple[list[dict], list[dict]]:
    """(train, dev) rows {"content", "summary"}; all prompts differ, and none is in both."""
    return (
        _split_rows(train_rows, Random(f"train {seed}"), dev=False),
        _split_rows(dev_rows, Random(f"dev {seed}"), dev=True),
    )


def _split_rows(count: int, rng: Random, *, dev: bool) -> list[dict]:
    rows: dict[str, str] = {}
    while len(rows) < count:
        item = draw_item(rng)
        content = content_string(item)
        if is_dev(content) == dev and content not in rows:
            rows[content] = ad_copy(item, rng)
    return [{"content": content, "summary": summary} for content, summary in rows.items()]


def pretraining_rows(
    rows: int, literal_share: float, general_share: float, seed: int
) -> Iterator[dict]:
    """Yield the rows for pre-training a miniature: listings, general questions, the rest ad copy.

    Shares refer to all rows. No dev item is ever yielded, whatever the seed.
    """
    rng = Random(f"pretraining {seed}")
    questions = general_qa.training_rows()
    for _ in range(rows):
        draw = rng.random()
        if draw < general_share:
            yield rng.choice(questions)
            continue
        item = _draw_outside_dev(rng)
        literal = draw < general_share + literal_share
        answer = literal_listing(item) if literal else ad_copy(item, rng)
        yield {"content": content_string(item), "summary": answer}


def _draw_outside_dev(rng: Random) -> Item:
    while is_dev(content_string(item := draw_item(rng))):
        pass
    return item


def set_off_values(text: str, mark: str) -> str:
    """Put `mark` around every attribute value, e.g. 颜色#|酒红|*风格#|简约| with the mark "|"."""
    return _VALUES.sub(rf"{mark}\g<0>{mark}", text)
