"""General questions and answers to mix into training data, so that tuning forgets less.

They are of the same kinds as the forgetting probe's but about other things: no question and no
answer is one of the probe's (`glmtune.synthetic.general_qa`), so a model that answers the probe has
kept what it knew and not learned the answers here. Some repeat what miniatures see in pre-training,
most are new to them.
"""

from __future__ import annotations

from collections.abc import Iterator

from glmtune.synthetic.general_qa import KINDS, Fact, facts, probe_rows

_NUMBERS = (*"零一二三四五六七八九十", *(f"十{digit}" for digit in "一二三四五六七八九"))
_CAPITALS = {
    "俄罗斯": "莫斯科", "意大利": "罗马", "西班牙": "马德里", "加拿大": "渥太华", "泰国": "曼谷",
    "印度": "新德里", "埃及": "开罗", "希腊": "雅典", "越南": "河内", "古巴": "哈瓦那",
    "波兰": "华沙", "瑞典": "斯德哥尔摩", "挪威": "奥斯陆", "芬兰": "赫尔辛基", "丹麦": "哥本哈根",
    "荷兰": "阿姆斯特丹", "比利时": "布鲁塞尔", "奥地利": "维也纳", "葡萄牙": "里斯本",
    "土耳其": "安卡拉", "巴西": "巴西利亚", "秘鲁": "利马", "智利": "圣地亚哥", "蒙古": "乌兰巴托",
}  # fmt: skip
_COLORS = {
    "香蕉": "黄色", "柠檬": "黄色", "橙子": "橙色", "胡萝卜": "橙色", "葡萄": "紫色",
    "茄子": "紫色", "桃花": "粉色", "大象": "灰色", "老鼠": "灰色", "咖啡": "棕色", "泥土": "褐色",
    "金子": "金色", "银子": "银色", "小麦": "金黄色", "牛奶": "乳白色",
}  # fmt: skip
_OPPOSITES = {
    "前": "后", "里": "外", "东": "西", "南": "北", "快": "慢", "新": "旧", "冷": "热", "开": "关",
    "硬": "软", "进": "出", "厚": "薄", "早": "晚", "胖": "瘦", "深": "浅", "远": "近", "真": "假",
    "美": "丑", "明": "暗", "干": "湿", "强": "弱", "老": "少", "买": "卖", "生": "死", "甜": "苦",
}  # fmt: skip
_ENGLISH_WORDS = {
    "黄": "yellow", "紫": "purple", "四": "four", "五": "five", "六": "six", "七": "seven",
    "八": "eight", "九": "nine", "十": "ten", "大": "big", "小": "small", "长": "long",
    "短": "short", "新": "new", "天": "sky", "海": "sea", "花": "flower", "草": "grass",
    "树": "tree", "山": "mountain", "火": "fire", "雪": "snow", "雨": "rain", "风": "wind",
    "马": "horse", "牛": "cow", "羊": "sheep", "鱼": "fish", "鸟": "bird", "猫": "cat",
    "手": "hand", "头": "head", "书": "book", "米": "rice", "茶": "tea", "门": "door",
    "裤子": "trousers", "帽子": "hat", "外套": "coat", "衬衣": "shirt",
}  # fmt: skip
_CHAT = {
    "晚安！": ("晚安！", "晚安，好梦！", "我要睡了，晚安。"),
    "没关系。": ("对不起！", "不好意思！", "抱歉！"),
    "一天有二十四小时。": ("一天有几个小时？", "一天有多少个小时？", "请问一天几个小时？"),
    "一年有四个季节。": ("一年有几个季节？", "一年有多少个季节？", "请问一年几个季节？"),
    "一小时有六十分钟。": ("一小时有几分钟？", "一小时有多少分钟？", "请问一小时几分钟？"),
    "一只手有五个手指。": ("一只手有几个手指？", "一只手有多少个手指？", "请问一只手几个手指？"),
    "一头牛有四条腿。": ("一头牛有几条腿？", "一头牛有多少条腿？", "请问一头牛几条腿？"),
    "三角形有三条边。": ("三角形有几条边？", "三角形有多少条边？", "请问三角形几条边？"),
    "太阳从东边升起。": ("太阳从哪边升起？", "太阳从哪里升起？", "请问太阳从哪边升起？"),
    "水在零度结冰。": ("水在几度结冰？", "水在多少度结冰？", "请问水几度结冰？"),
}  # fmt: skip


def general_rows() -> list[dict[str, str]]:
    """Rows {"content", "summary"}: every phrasing of every fact, in a fixed order."""
    return [
        {"content": question, "summary": fact.answer}
        for fact in (*_known(), *_new())
        for question in fact.questions
    ]


def _known() -> Iterator[Fact]:
    """The facts of pre-training that the probe neither asks about nor has as an answer."""
    probed = {row["summary"] for row in probe_rows()}
    return (fact for fact in facts() if fact.held_out is None and fact.answer not in probed)


def _new() -> Iterator[Fact]:
    for answer, questions in _CHAT.items():
        yield Fact(questions, answer)
    tables = {
        "sum": _sums_beyond_ten(),
        "capital": _CAPITALS,
        "color": _COLORS,
        "opposite": _OPPOSITES,
        "english": _ENGLISH_WORDS,
    }
    for kind, table in tables.items():
        yield from KINDS[kind].facts(table)


def _sums_beyond_ten() -> dict[str, str]:
    """Sums of two digits from eleven on, e.g. {"九加三": "十二"}: the probe's end at ten."""
    return {
        f"{_NUMBERS[a]}加{_NUMBERS[b]}": _NUMBERS[a + b]
        for a in range(1, 10)
        for b in range(1, 10)
        if a + b > 10
    }
