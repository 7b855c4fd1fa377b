"""What the tests of specs share."""

from __future__ import annotations

import pytest

from ckptclamp.spec.loader import load_spec


@pytest.fixture
def load(tmp_path):
    """Write a spec and load it."""

    def load_text(text, **options):
        path = tmp_path / "spec.yaml"
        path.write_text(text, encoding="utf-8")
        return load_spec(path, **options)

    return load_text
