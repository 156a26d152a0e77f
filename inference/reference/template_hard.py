"""Conversations rendered by real chat templates, as `transformers` renders them.

    venv/bin/python template_hard.py SMOLLM2.gguf QWEN_PART.gguf > ../tests/fixtures/template_hard.json

Templates: of the two files, and those that PyPI's `trl` (Apache-2.0) carries for other families. The clock that
`strftime_now` reads stands still. Where a template refuses a conversation, its words are kept as `refused`; what
fails for another reason (a message that lacks what the template takes for granted) as `failed`, for which only
that there is an error matters. `python` marks texts into which Python's way of writing a list or nothing got,
which nobody need imitate.
"""

import datetime
import json
import sys
from importlib import resources
from importlib.metadata import version

import jinja2
import transformers.utils.chat_template_utils as chat

import tiny_tokenizer
from tokenizer_hard import Header

NOW = datetime.datetime(2025, 2, 3, 4, 5, 6)

# Of `trl`, and the tokens that the template may write.
CARRIED = {
    "qwen2_5": {"bos_token": None, "eos_token": "<|im_end|>"},
    "qwen3": {"bos_token": None, "eos_token": "<|im_end|>"},
    "qwen3_instruct_2507": {"bos_token": None, "eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama3_1": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama3_2": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "gemma3": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "deepseekv3": {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town; \"now\" & <later>, naïvely.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "description": "Ærøskøbing, 東京"},
                "days": {"type": "integer", "minimum": 0, "default": 1},
                "units": {"type": "string", "enum": ["°C", "°F"]},
            },
            "required": ["town"],
        },
    },
}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments, identity="call_1"):
    return {"id": identity, "type": "function", "function": {"name": "weather", "arguments": arguments}}


ASKED = turn("user", "How is the weather in Ærøskøbing?")
SYSTEM = turn("system", "You are terse.\n  Two spaces stay.")

# Name: what goes into the template.
CONVERSATIONS = {
    "one question": {"messages": [turn("user", "Hello")]},
    "no generation prompt": {"messages": [turn("user", "Hello")], "add_generation_prompt": False},
    "system": {"messages": [SYSTEM, turn("user", "Hello")]},
    "several turns": {
        "messages": [
            SYSTEM,
            turn("user", "One?"),
            turn("assistant", "Two."),
            turn("user", "Three?"),
            turn("assistant", "Four."),
            turn("user", "Five?"),
        ]
    },
    "ends with the assistant": {
        "messages": [turn("user", "Hello"), turn("assistant", "Hi, I")],
        "add_generation_prompt": False,
    },
    "unicode and whitespace": {
        "messages": [
            turn("system", "  Ünïcödé 👩‍👩‍👧 \u00a0 "),
            turn("user", "\n\n  你好 e\u0301 \u200b\ttabs\n\nend  \n"),
            turn("assistant", " 🇫🇷 مرحبا "),
            turn("user", "  "),
        ]
    },
    "template language in the content": {
        "messages": [turn("user", "{{ 7 * 7 }} {% raise %} {# c #} </s> <|im_end|> <end_of_turn> <|eot_id|>")]
    },
    "empty contents": {"messages": [turn("system", ""), turn("user", ""), turn("assistant", ""), turn("user", "x")]},
    "thinking in the history": {
        "messages": [
            turn("user", "Think."),
            turn("assistant", "<think>\nHm, \nhm.\n</think>\n\nDone."),
            turn("user", "Again."),
        ]
    },
    "thinking off": {"messages": [turn("user", "Quick.")], "enable_thinking": False},
    "thinking on": {"messages": [turn("user", "Slow.")], "enable_thinking": True},
    "reasoning apart": {
        "messages": [
            turn("user", "Think."),
            turn("assistant", "Done.", reasoning_content="Hm."),
            turn("tool", "late"),
            turn("assistant", "So.", reasoning_content="\nHm hm.\n"),
        ],
        "add_generation_prompt": False,
    },
    "tools offered": {"messages": [SYSTEM, ASKED], "tools": [WEATHER]},
    "tools offered without system": {"messages": [ASKED], "tools": [WEATHER]},
    "two tools offered": {
        "messages": [ASKED],
        "tools": [
            WEATHER,
            {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}},
        ],
    },
    "tool called": {
        "messages": [
            SYSTEM,
            ASKED,
            turn("assistant", "", tool_calls=[call({"town": "Ærøskøbing", "days": 2, "exact": True, "x": None})]),
            turn("tool", '{"sky": "grey", "t": 4.5}', tool_call_id="call_1", name="weather"),
        ],
        "tools": [WEATHER],
    },
    "tool called, arguments as text": {
        "messages": [
            ASKED,
            turn("assistant", "", tool_calls=[call('{"town": "Ærøskøbing"}')]),
            turn("tool", "grey", tool_call_id="call_1"),
            turn("assistant", "It is grey."),
            turn("user", "Thanks."),
        ],
        "tools": [WEATHER],
    },
    "tool called, content null": {
        "messages": [
            ASKED,
            turn("assistant", None, tool_calls=[call('{"town": "A"}')]),
            turn("tool", "grey", tool_call_id="call_1"),
        ],
    },
    "two tools called": {
        "messages": [
            ASKED,
            turn(
                "assistant",
                "Let me look.",
                tool_calls=[call({"town": "A"}), call({"town": "B <&> 'quoted' \"twice\""}, "call_2")],
            ),
            turn("tool", "grey", tool_call_id="call_1"),
            turn("tool", "blue", tool_call_id="call_2"),
        ],
        "tools": [WEATHER],
    },
    "date given": {"messages": [turn("user", "Date?")], "date_string": "01 Jan 2030"},
    "content in parts": {
        "messages": [turn("user", [{"type": "text", "text": "Part one. "}, {"type": "text", "text": "Part two."}])]
    },
    "system in parts": {
        "messages": [turn("system", [{"type": "text", "text": "Be brief."}]), turn("user", "Hello")]
    },
    "system in the middle": {"messages": [turn("user", "Hello"), turn("system", "Be brief."), turn("user", "Now?")]},
    "two users in a row": {"messages": [turn("user", "One."), turn("user", "Two.")]},
    "assistant first": {"messages": [turn("assistant", "Hello."), turn("user", "Hi.")]},
    "unknown role": {"messages": [turn("user", "Hello"), turn("narrator", "He said.")]},
    "no messages": {"messages": []},
    "no content": {"messages": [{"role": "user"}]},
    "null content": {"messages": [turn("user", None)]},
}


def render(template, tokens, conversation):
    given = {"add_generation_prompt": True} | conversation
    # As `apply_chat_template` does: what the tokenizer does not have is not defined.
    given |= {name: token for name, token in tokens.items() if token is not None}
    given.setdefault("tools", None)
    given.setdefault("documents", None)
    try:
        text = chat._compile_jinja_template(template).render(**given)
        python = "None" in text or "{'" in text
        return {"text": text} | ({"python": True} if python else {})
    except jinja2.exceptions.TemplateError as error:
        # `raise_exception` of a template raises exactly this class; others are its kin.
        key = "refused" if type(error) is jinja2.exceptions.TemplateError else "failed"
        return {key: str(error)}
    except TypeError as error:
        return {"failed": str(error)}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def tokens_of(fields):
    names = fields["tokenizer.ggml.tokens"].contents()
    ids = {kind: fields[f"tokenizer.ggml.{kind}_token_id"].contents() for kind in ("bos", "eos")}
    return {f"{kind}_token": names[i] for kind, i in ids.items()}


def main(smollm2, qwen_part):
    chat.datetime = Clock
    templates = []
    for name, path, origin in [
        ("smollm2", smollm2, "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("deepseek_r1_distill_qwen", qwen_part, "DeepSeek-R1-Distill-Qwen-7B, GGUF"),
    ]:
        fields = Header(path).fields
        templates.append((name, fields["tokenizer.chat_template"].contents(), tokens_of(fields), origin))
    for name, tokens in CARRIED.items():
        template = resources.files("trl").joinpath(f"chat_templates/{name}.jinja").read_text()
        templates.append((name, template, tokens, f"trl {version('trl')}, chat_templates/{name}.jinja"))
    tiny = {"bos_token": None, "eos_token": "<|im_end|>"}
    templates.append(("tiny", tiny_tokenizer.TEMPLATE, tiny, "reference/tiny_tokenizer.py"))
    out = {
        "transformers": version("transformers"),
        "jinja2": version("jinja2"),
        "now": NOW.isoformat(),
        "conversations": CONVERSATIONS,
        "templates": [
            {
                "name": name,
                "origin": origin,
                "template": template,
                "tokens": tokens,
                "rendered": {key: render(template, tokens, value) for key, value in CONVERSATIONS.items()},
            }
            for name, template, tokens, origin in templates
        ],
    }
    for template in out["templates"]:
        errors = {k: v for k, v in template["rendered"].items() if "text" not in v}
        print(template["name"], errors, file=sys.stderr)
    json.dump(out, sys.stdout, indent=0, ensure_ascii=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
