"""Write workflow/schemas/params.schema.yaml, for editors; `--check`: is it up to date?

Made from the classes of glmtune/params/models.py, which alone decide what params.yaml may hold.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.params.models import ParamsFile  # noqa: E402

SCHEMA_FILE = ROOT / "workflow" / "schemas" / "params.schema.yaml"
HEADER = """\
# What params.yaml may hold, for editors: as the first line of params.yaml,
#   # yaml-language-server: $schema=workflow/schemas/params.schema.yaml
# Written by `make schema` from workflow/scripts/glmtune/params/models.py; the rules between keys
# are in checks.py beside it.
$schema: https://json-schema.org/draft/2020-12/schema
"""


class _WithoutDefaults(GenerateJsonSchema):
    """JSON schemas without defaults: there are none, only optional keys."""

    def default_schema(self, schema: Any) -> Any:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def main() -> int:
    """Write the schema, or say whether it is stale."""
    if "--check" not in sys.argv[1:]:
        SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    elif SCHEMA_FILE.read_text(encoding="utf-8") != schema_text():
        print(f"{SCHEMA_FILE.relative_to(ROOT)}: stale; `make schema` writes it")
        return 1
    return 0


def schema_text() -> str:
    """The file's contents."""
    schema = ParamsFile.model_json_schema(schema_generator=_WithoutDefaults)
    return HEADER + yaml.safe_dump(schema, sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    sys.exit(main())
