"""Amazon reviews of 2018: ``<Category>_5.json.gz`` and ``meta_<Category>.json.gz``, JSON lines.

The 5-core files count a user's repeated reviews of one item (the same product in two colours) as several;
after our rule for repeats fewer rows are left than are published. J. Ni, J. Li, J. McAuley: Justifying
recommendations using distantly-labeled reviews and fine-grained aspects, EMNLP 2019.
"""

from __future__ import annotations

from typing import ClassVar

from recbole_llm.prepare.amazon import Amazon2014


class Amazon2018(Amazon2014):
    """As 2014, with one category path and a description in pieces."""

    categories_key: ClassVar[str] = "category"
