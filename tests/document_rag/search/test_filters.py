"""What a filter lets through, in every mode; and that nothing of it becomes part of a statement."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from services.document_rag.__main__ import Documents
from services.document_rag.documents.model import Description
from services.document_rag.model import CollectionFields, Comparison, Condition, Filter, MetadataValue, SearchMode
from shared.errors import InvalidArgument

METADATA: dict[str, dict[str, object]] = {
    "a": {"ano": 2026, "setor": "saúde", "vigente": True, "publicado": "2026-03-01", "versao": 2.5},
    "b": {"ano": 2027, "setor": "obras", "vigente": False, "publicado": "2027-01-31T12:00:00Z"},
    "c": {"ano": "2027", "setor": "Obras", "publicado": "amanhã", "a'b\"c": 1},
    "d": {},
}
Library = tuple[str, dict[str, str], str]


async def put(documents: Documents, tenant_id: str, text: str, **said: object) -> str:
    async def pieces() -> object:
        yield text.encode()

    described = Description(filename="texto.txt", **said)  # type: ignore[arg-type]
    result = await documents.ingest.upload(tenant_id, described, pieces())  # type: ignore[arg-type]
    return result.document.document_id


@pytest.fixture(scope="session")
async def library(documents: Documents) -> Library:
    """A tenant with four documents of the same words and other metadata; the last one is in a collection."""
    tenant = f"filters-{uuid4()}"
    collection = (await documents.collections.create(tenant, CollectionFields("Decretos"), "")).collection_id
    ids = {}
    for name, metadata in METADATA.items():
        text = f"O decreto municipal {name * 3} trata do calendário da prefeitura."
        within = collection if name == "d" else ""
        ids[name] = await put(documents, tenant, text, metadata=metadata, title=name, collection_id=within)
    return tenant, ids, collection


async def found(documents: Documents, library: Library, wanted: Filter) -> str:
    """The names of the documents found, the same in every mode."""
    tenant, ids, _ = library
    names = {document_id: name for name, document_id in ids.items()}
    answers = set()
    for mode in SearchMode:
        result = await documents.index.search(tenant, "decreto municipal", top_k=10, mode=mode, filter=wanted)
        answers.add("".join(sorted(names[passage.document_id] for passage in result.passages)))
    assert len(answers) == 1, answers
    return answers.pop()


@pytest.mark.parametrize(
    ("field", "comparison", "values", "names"),
    [
        ("ano", Comparison.EQ, (2027.0,), "b"),
        ("ano", Comparison.EQ, ("2027",), "c"),
        ("ano", Comparison.NE, (2027.0,), "acd"),
        ("ano", Comparison.IN, (2026.0, 2027.0), "ab"),
        ("ano", Comparison.GT, (2026.0,), "b"),
        ("ano", Comparison.GTE, (2026.0,), "ab"),
        ("ano", Comparison.LT, (2026.5,), "a"),
        ("versao", Comparison.LTE, (2.5,), "a"),
        ("setor", Comparison.EQ, ("obras",), "b"),
        ("setor", Comparison.IN, ("obras", "saúde"), "ab"),
        ("setor", Comparison.GT, ("a",), "ab"),
        ("vigente", Comparison.EQ, (True,), "a"),
        ("vigente", Comparison.NE, (True,), "bcd"),
        ("vigente", Comparison.EXISTS, (), "ab"),
        ("vigente", Comparison.EXISTS, (False,), "cd"),
        ("publicado", Comparison.LT, (datetime(2027, 1, 1, tzinfo=UTC),), "a"),
        ("publicado", Comparison.GTE, (datetime(2027, 1, 31, 12, tzinfo=UTC),), "b"),
        ("publicado", Comparison.EQ, (datetime(2026, 3, 1, tzinfo=UTC),), "a"),
        ("a'b\"c", Comparison.EQ, (1.0,), "c"),
        ("setor' or '1'='1", Comparison.EXISTS, (), ""),
        ("setor", Comparison.EQ, ("x' or true --",), ""),
        ("missing", Comparison.EQ, ("",), ""),
    ],
)
async def test_metadata_are_compared_by_their_type(
    documents: Documents,
    library: Library,
    field: str,
    comparison: Comparison,
    values: tuple[MetadataValue, ...],
    names: str,
) -> None:
    wanted = Filter(conditions=(Condition(field, comparison, values),))
    assert await found(documents, library, wanted) == names


async def test_all_conditions_hold_and_documents_and_collections_are_one_set(
    documents: Documents, library: Library
) -> None:
    _, ids, collection = library
    both = (Condition("ano", Comparison.GTE, (2026.0,)), Condition("vigente", Comparison.EQ, (False,)))
    assert await found(documents, library, Filter(conditions=both)) == "b"
    assert await found(documents, library, Filter(collection_ids=(collection,))) == "d"
    assert await found(documents, library, Filter(document_ids=(ids["a"],), collection_ids=(collection,))) == "ad"
    assert await found(documents, library, Filter(collection_ids=(str(uuid4()),))) == ""
    assert await found(documents, library, Filter(collection_ids=("no-uuid",))) == ""


async def test_languages_choose_documents_and_stem_their_words(documents: Documents, tenant_id: str) -> None:
    english = await put(documents, tenant_id, "The municipal libraries were closed for holidays.", language="en")
    spanish = await put(documents, tenant_id, "Las bibliotecas municipales cerraron por vacaciones.", language="es")
    portuguese = await put(documents, tenant_id, "As bibliotecas municipais fecharam nas férias.", language="pt")

    async def asked(query: str, **wanted: tuple[str, ...]) -> list[str]:
        result = await documents.index.search(
            tenant_id,
            query,
            top_k=5,
            mode=SearchMode.KEYWORD,
            filter=Filter(**wanted),  # type: ignore[arg-type]
        )
        return [passage.document_id for passage in result.passages]

    assert (await asked("when does the library close for a holiday?"))[0] == english
    assert (await asked("¿cuándo cierra la biblioteca por vacación?"))[0] == spanish
    assert (await asked("quando fecha a biblioteca municipal nas férias?"))[0] == portuguese
    assert await asked("biblioteca", languages=("es",)) == [spanish]
    assert set(await asked("bibliotecas municipais", languages=("pt", "es"))) == {spanish, portuguese}


@pytest.mark.parametrize(
    ("comparison", "values"),
    [
        (Comparison.EQ, ()),
        (Comparison.EQ, ("a", "b")),
        (Comparison.IN, ()),
        (Comparison.IN, ("a", 1.0)),
        (Comparison.GT, (True,)),
        (Comparison.EXISTS, ("a",)),
        (Comparison.EQ, ("a\0b",)),
    ],
)
def test_values_that_do_not_go_with_a_comparison_are_refused(
    comparison: Comparison, values: tuple[MetadataValue, ...]
) -> None:
    with pytest.raises(InvalidArgument):
        Condition("field", comparison, values)
