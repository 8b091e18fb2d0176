"""Keys whose private halves are printed in standards, and end up in devices and test suites that went into production.

SHA-256 of the SubjectPublicKeyInfo (DER) -> where it is printed. The tests make each from what the standard prints. Longer
lists (Debian's of 2008, found keys) are the operator's to bring: `certwright keys block`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KNOWN_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "5a7a78cca4a0f420d9bc62bb669c3c2759e39f723d3ae10dcbe0f0815a07ecd4": "RFC 6979 A.2.5",
        "2f95601fa82060b909bfc6b979dbd303d34d34e0afb27ea496beac362f242a4b": "RFC 6979 A.2.6",
        "2fb6d46385242ea4ad431f7175e7014eb74a5fc60f65b50ca54cc23c5b08de38": "RFC 6979 A.2.7",
        "2bd1bb0c44a897c30a7aa0991cde38d8062fe441de50da0f46825344f602e827": "RFC 7515 A.3",
        "51b944cdfa544d4c3273aa6bf350625a7dd53bbb6a71723274f538b19a207760": "RFC 7517 A.2",
        "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9": "RFC 8032 §7.1 TEST 1 and RFC 8037 A.1",
        "deb2ded39dc26fce0e6085b6fc34bf6b5941913bbfe2ea614113cff9e004c170": "RFC 8032 §7.1 TEST 2",
        "8d39ba50abe50f77b6bb8ae7b6927aff7ffbeba35ad2837c0e51e82bcbcc60d5": "RFC 8032 §7.1 TEST 3",
        "ad32320cf6c596d884b05381ba573aba8ddd5749b4de8f4a23a79f9a89ddaeb2": "RFC 7517 A.2 and RFC 7638 §3.1",
    }
)
