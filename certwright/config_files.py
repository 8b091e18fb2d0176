"""The files that certwright.yaml names: what is wrong with one is noted at the line that names it."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography import x509

from certwright.yaml_positions import Document, Place


class ConfigFiles:
    """Relative paths are relative to the configuration's own directory."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._directory = document.file.absolute().parent

    def path(self, text: str) -> Path:
        return self._directory / text

    def readable(self, place: Place, text: str) -> Path:
        path = self.path(text)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                self._document.note(place, f"{path} is not a file")
        except PermissionError:
            self._document.note(place, f"this user may not look at {path}; is it the user that the server runs as?")
        except (OSError, ValueError):
            self._document.note(place, f"there is no file {path}")
        return path

    def secret(self, place: Place, text: str) -> Path:
        before = len(self._document.problems)
        path = self.readable(place, text)
        if len(self._document.problems) == before and path.stat().st_mode & 0o007:
            self._document.note(place, f"anybody on this machine can read {path}; do: chmod o= {path}")
        return path

    def certificates(self, place: Place, text: str) -> list[x509.Certificate]:
        before = len(self._document.problems)
        path = self.readable(place, text)
        if len(self._document.problems) > before:
            return []
        try:
            return x509.load_pem_x509_certificates(path.read_bytes())
        except (ValueError, x509.InvalidVersion, OSError):
            self._document.note(place, f"{path} holds no certificate in PEM")
            return []
