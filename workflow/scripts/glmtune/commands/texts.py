"""What `glmtune chat` says, in English and Chinese."""

from __future__ import annotations

import os
from collections.abc import Mapping

LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
LANGUAGES = ("en", "zh")

ENGLISH = {
    "welcome": "{name} ({title}) on {device}. /help lists the commands, Ctrl-D quits.",
    "loading": "loading {name} …",
    "help": """/again           ask the last question again
/compare [TEXT]  ask every method of this model TEXT, or the last question again
/model [NAME]    switch to another method or model, or list all
/history         show the conversation
/clear           clear the conversation
/system [TEXT]   set or remove the system message
/as ROLE TEXT    send TEXT as system, user, assistant or observation
/set [KEY VALUE] show or set temperature, top_p, seed, max_new_tokens
/quit            quit (or Ctrl-D)
End a line with \\ to continue it on the next. Ctrl-C stops an answer.""",
    "you": "you> ",
    "stopped": "(stopped)",
    "cut": "(stopped at {limit} tokens; raise the limit with /set max_new_tokens)",
    "cleared": "Conversation cleared.",
    "no_history": "The conversation is empty.",
    "no_question": "You have not asked a question yet.",
    "now": "Switched to {name}.",
    "system": "System message: {text}",
    "no_system": "No system message.",
    "unknown": "unknown command {name}; expected {near}; /help lists all",
    "unknown_key": "unknown setting {name}; expected {near}",
    "bad_value": "{name}: found {value}; expected {expected}",
    "nothing_said": "expected a role and a text: /as ROLE TEXT",
    "bye": "Goodbye.",
}
CHINESE = {
    "welcome": "{name}（{title}），运行在 {device}。输入 /help 查看命令，按 Ctrl-D 退出。",
    "loading": "正在加载 {name} …",
    "help": """/again           重新回答上一个问题
/compare [内容]  让该模型的所有方法各答一次；不写内容则用上一个问题
/model [名称]    切换方法或模型；不写名称则列出全部
/history         显示对话历史
/clear           清空对话历史
/system [内容]   设置系统消息；不写内容则取消
/as 角色 内容    以 system、user、assistant 或 observation 的身份说话
/set [名称 值]   查看或修改参数 temperature、top_p、seed、max_new_tokens
/quit            退出（也可按 Ctrl-D）
行末输入 \\ 可换行继续。Ctrl-C 只停止当前回答。""",
    "you": "你> ",
    "stopped": "（已停止）",
    "cut": "（已达到 {limit} 个 token 的上限；可用 /set max_new_tokens 调大）",
    "cleared": "对话历史已清空。",
    "no_history": "还没有对话。",
    "no_question": "还没有提过问题。",
    "now": "已切换到 {name}。",
    "system": "系统消息：{text}",
    "no_system": "没有系统消息。",
    "unknown": "未知命令 {name}；可用：{near}；/help 列出全部",
    "unknown_key": "没有 {name} 这个参数；可用：{near}",
    "bad_value": "{name}：输入的是 {value}；取值范围：{expected}",
    "nothing_said": "需要角色和内容：/as 角色 内容",
    "bye": "再见。",
}
TEXTS: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "zh": CHINESE}


def language_of_locale() -> str:
    """`zh` if the locale asks for Chinese, else `en`."""
    locale = next((os.environ[name] for name in LOCALE_VARIABLES if os.environ.get(name)), "")
    return "zh" if locale.lower().startswith("zh") else "en"
