"""Passages for tests, as a search would return them."""

from services.document_rag.model import Passage, RetrievalMode, SearchResult


def passage(text: str, *, title: str = "Guia do IPTU", section: str = "", document_id: str = "d1") -> Passage:
    """A found chunk with this text."""
    return Passage(
        chunk_id=f"{document_id}-{abs(hash(text))}",
        document_id=document_id,
        title=title,
        version=1,
        page=0,
        section=section,
        char_start=0,
        char_end=len(text),
        text=text,
        score=1.0,
    )


def found(*passages: Passage) -> SearchResult:
    """A search's result with these passages, every word of the query telling as much as another."""
    return SearchResult(passages, RetrievalMode.EXACT, {})
