"""The report: one page that opens from a disk, shows what results say, and lets one look.

It reads results alone and needs no torch. Whatever comes from users' files is escaped.
"""

from __future__ import annotations

from attrscore.report.page.page import page

__all__ = ["page"]
