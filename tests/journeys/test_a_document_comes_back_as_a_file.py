"""A clerk keeps a file in Prosa and takes it out again, with a browser."""

from urllib.parse import quote

from tests.house.processes import System
from tests.journeys.tenant import Tenant, new_tenant

NAME = "Ata nº 7 – maçã.txt"
CONTENT = "A ata da sétima reunião foi aprovada por todos.\n".encode() * 20_000


def test_a_document_comes_back_as_the_file_that_was_sent(tenant: Tenant) -> None:
    kept = tenant.admin.upload(NAME, CONTENT)["document"]
    path = f"/v1/documents/{kept['documentId']}:download"
    file = tenant.admin.http.get(path)
    assert file.content == CONTENT
    assert file.headers["content-type"] == kept["mimeType"]
    assert file.headers["content-length"] == kept["sizeBytes"]
    assert file.headers["content-disposition"].endswith(f"filename*=UTF-8''{quote(NAME)}")
    rest = tenant.admin.http.get(path, headers={"range": "bytes=700000-", "if-range": file.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, CONTENT[700_000:])
    assert tenant.admin.http.get(path, headers={"if-none-match": file.headers["etag"]}).status_code == 304


def test_a_document_is_no_file_for_who_may_not_read_it(system: System, tenant: Tenant) -> None:
    kept = tenant.admin.upload(NAME, CONTENT)["document"]
    path = f"/v1/documents/{kept['documentId']}:download"
    etag = {"if-none-match": f'"{kept["sha256"]}"'}
    assert tenant.key("ROLE_END_USER").http.get(path, headers=etag).status_code == 403
    assert new_tenant(system).admin.http.get(path, headers=etag).status_code == 404
