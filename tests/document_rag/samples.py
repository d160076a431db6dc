"""Small Portuguese documents written for the tests, in every type that can be uploaded."""

import io
import re
import zipfile
import zlib

import docx

LIXO = """# Coleta de lixo

A coleta de lixo domiciliar acontece às segundas, quartas e sextas-feiras, a partir das sete horas.

## Coleta seletiva

Papel, vidro, plástico e metal são recolhidos às quintas-feiras. Os recicláveis devem estar limpos e secos.

## Entulho

O entulho de obras não é recolhido pela coleta comum. O cidadão deve contratar uma caçamba licenciada.
"""

ORCAMENTO = """# Lei orçamentária anual

O orçamento do município para o próximo exercício foi aprovado pela câmara de vereadores.

## Licitações

Toda licitação é publicada no portal da transparência. Os pregões eletrônicos ocorrem às terças-feiras.
"""

IPTU = """# Imposto predial e territorial urbano

O IPTU pode ser pago em cota única, com desconto de dez por cento, até o dia 15 de fevereiro.

## Isenção

Aposentados com um único imóvel podem pedir isenção do imposto na secretaria da fazenda.
"""

POSTO = """# Postos de saúde

O posto de saúde do bairro Jardim atende das oito às dezessete horas. A vacinação contra a gripe é gratuita.
"""

HTML = """<!doctype html><html><head><title>Alvará de funcionamento</title><style>p {color: red}</style></head>
<body><nav><a href="/">Início</a> <a href="/mapa">Mapa do sítio</a></nav>
<header>Prefeitura de Exemplo</header>
<main><h1>Alvará de funcionamento</h1><p>O alvará é pedido pela <b>internet</b> e custa R$&nbsp;120,00.</p>
<h2>Documentos</h2><ul><li>Contrato social</li><li>Laudo dos bombeiros</li></ul>
<table><tr><th>Prazo</th><th>Dias</th></tr><tr><td>Análise</td><td>15</td></tr></table>
<div class="toc"><a href="#x">Sumário</a></div><pre># apt install prefeitura
segunda linha</pre></main>
<footer>Direitos reservados</footer><script>alert("oi")</script></body></html>"""


_FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /{} /Encoding /WinAnsiEncoding >>"


def pdf(*pages: str, bookmarks: dict[str, int] | None = None, locked: bool = False) -> bytes:
    """A PDF of one text line a line, "{20}" before it for 20 points, "{b}" for bold letters up to "{/b}" or its end.

    A page without text draws a rectangle, like a scan.

    `bookmarks`: title → index of the page. `locked`: under a password that nobody knows.
    """
    fonts = [_FONT.format("Helvetica"), _FONT.format("Helvetica-Bold")]
    objects = ["", "", *fonts]
    kids = []
    for page in pages:
        lines = " ".join(map(_drawn, page.split("\n")))
        drawing = f"BT /F1 11 Tf 14 TL 50 800 Td {lines} ET" if page else "0 0 100 100 re f"
        objects.append(f"<< /Length {len(drawing.encode('cp1252'))} >>\nstream\n{drawing}\nendstream")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R /F2 4 0 R >> >>"
            f" /Contents {len(objects)} 0 R >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects[0] = f"<< /Type /Catalog /Pages 2 0 R {_outline(objects, bookmarks or {}, kids)} >>"
    return _assembled([each.encode("cp1252") for each in objects], _LOCK if locked else b"")


def bomb_pdf(unpacked_bytes: int) -> bytes:
    """A PDF whose only page unpacks to a very long text."""
    drawing = b"BT /F1 11 Tf " + b"(aaaaaaaaaaaaaaaa) Tj " * (unpacked_bytes // 22) + b"ET"
    packed = zlib.compress(drawing, 9)
    stream = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed)
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 4 0 R >> >>"
    return _assembled(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            page + b" /Contents 5 0 R >>",
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            stream,
        ]
    )


def docx_of(title: str, heading: str, *paragraphs: str) -> bytes:
    """A DOCX with one heading, paragraphs and a table."""
    document = docx.Document()
    document.core_properties.title = title
    document.add_heading(heading, level=1)
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text = "Taxa"
    table.rows[0].cells[1].text = "R$ 35,00"
    content = io.BytesIO()
    document.save(content)
    return content.getvalue()


def bomb_docx(unpacked_bytes: int) -> bytes:
    """A DOCX whose document part is all the same letter."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"a" * unpacked_bytes)
    return content.getvalue()


def entity_docx() -> bytes:
    """A DOCX that asks the XML reader to unfold entities."""
    content = io.BytesIO(docx_of("t", "h", "p"))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("word/extra.xml", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>')
    return content.getvalue()


_LOCK = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00> <00>]" % (b"5a" * 32, b"a5" * 32)


def _outline(objects: list[str], bookmarks: dict[str, int], kids: list[str]) -> str:
    """Adds the bookmarks to the objects; the entry of the catalogue that points to them."""
    if not bookmarks:
        return ""
    outline, first, last = len(objects) + 1, len(objects) + 2, len(objects) + 1 + len(bookmarks)
    objects.append(f"<< /Type /Outlines /First {first} 0 R /Last {last} 0 R >>")
    for number, (title, page) in enumerate(bookmarks.items(), start=first):
        following = f"/Next {number + 1} 0 R" if number < last else ""
        objects.append(f"<< /Title ({title}) /Parent {outline} 0 R /Dest [{kids[page]} /Fit] {following} >>")
    return f"/Outlines {outline} 0 R"


def _drawn(line: str) -> str:
    size, bold, text = re.fullmatch(r"(?:\{(\d+)\})?(?:\{b\}(.*?)(?:\{/b\}|$))?(.*)", line).groups()  # type: ignore[union-attr]
    parts = [f"/F2 {size or 11} Tf ({_escaped(bold)}) Tj"] if bold else []
    return " ".join([*parts, f"/F1 {size or 11} Tf ({_escaped(text)}) Tj T*"])


def _escaped(line: str) -> str:
    return line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _assembled(objects: list[bytes], trailer: bytes = b"") -> bytes:
    content = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, each in enumerate(objects, start=1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = len(content)
    content += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    content += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    content += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, table)
    return bytes(content)
