"""What the service says of a file or a call, in Portuguese: it speaks English, and people at a terminal need not."""

import re
from collections.abc import Mapping

_SUPPORTED = "PDF, DOCX, PPTX, XLSX, EPUB, HTML, Markdown, CSV and plain text are supported"
_SENTENCES: Mapping[str, str] = {
    "the {} is damaged: its archive cannot be opened": "o {} está danificado: o pacote não abre",
    "the {} is damaged: its part {} cannot be read": "o {} está danificado: a parte {} não pode ser lida",
    "the {} is damaged: a part of it is no XML": "o {} está danificado: uma parte dele não é XML",
    "the {} is damaged: it cannot be opened": "o {} está danificado: não pode ser aberto",
    "the {} is damaged: it does not begin like one": "o {} está danificado: não começa como deveria",
    "the {} is damaged: none of its pages can be read": "o {} está danificado: nenhuma página pode ser lida",
    "the {} is damaged: it begins like a DOCX, XLSX or other archive, but is none": (
        "o {} está danificado: começa como um DOCX, XLSX ou outro pacote, mas não é nenhum"
    ),
    "the {} is damaged ({})": "o {} está danificado ({})",
    "the {} is damaged": "o {} está danificado",
    "the {} is locked by a password; save it without one and upload that": (
        "o {} está protegido por senha; salve uma cópia sem senha e envie essa cópia"
    ),
    "the {} is locked by its seller (DRM)": "o {} está bloqueado pelo vendedor (DRM)",
    "the {} unpacks to far more than a document needs": "o {} se expande muito além do que um documento precisa",
    "the {} unpacks to far more text than is allowed": "o {} se expande em muito mais texto do que o permitido",
    "a part of the {} is larger than a document needs": "uma parte do {} é maior do que um documento precisa",
    "the {} declares XML entities, which no program that writes documents does": (
        "o {} declara entidades XML, o que nenhum programa de documentos faz"
    ),
    "the file holds NUL bytes: it is damaged, or a binary file of a type that is not supported": (
        "o arquivo tem bytes NUL: está danificado, ou é um binário de um tipo que não é aceito"
    ),
    "the {} has more than {} pages; split it": "o {} tem mais de {} páginas; divida-o",
    "the {} has more than {} characters of text; split it": "o {} tem mais de {} caracteres de texto; divida-o",
    "the table has more than {} columns": "a tabela tem mais de {} colunas",
    "the PDF holds no text: it is probably a scan; run text recognition (OCR) on it first": (
        "o PDF não tem texto: deve ser uma digitalização; faça antes o reconhecimento de texto (OCR)"
    ),
    "the {} holds no text": "o {} não tem texto",
    "the file is empty{}": "o arquivo está vazio",
    "the body is larger than {} bytes": "o arquivo tem mais de {} bytes, que é o máximo",
    "a document may have {} bytes at most": "um documento pode ter no máximo {} bytes",
    "reading the {} takes too much memory": "ler o {} exige memória demais",
    "reading the {} takes too long": "ler o {} demora demais",
    "reading the {} takes more memory or time than is allowed": (
        "ler o {} exige mais memória ou tempo do que o permitido"
    ),
    "this is {}; upload the files in it ({})": "isto é {}; envie os arquivos que estão nele ({})",
    "this is {}; save it as {} ({})": "isto é {}; salve-o como {} ({})",
    "this is {}; save it as {}; {}": "isto é {}; salve-o como {}; {}",
    "this is {}; save it as {}": "isto é {}; salve-o como {}",
    "this is {}; {}": "isto é {}; {}",
    "the object store does not have the original": "o arquivo original não está mais no armazenamento",
    "the processes that worked on it died, one after another": "os processos que o liam morreram, um após o outro",
    "the embedding provider gives no vectors": "o provedor de vetores não responde",
    "Permission denied": "sem permissão para ler o arquivo",
    "No such file or directory": "o arquivo não existe mais",
    "the stream broke off": "a resposta foi interrompida",
    "{} cannot be reached ({})": "{} não responde: confira o endereço e se o serviço está no ar",
    "{} is no gateway: it does not answer in JSON": "{} não é um gateway: não responde em JSON",
}
_TERMS: Mapping[str, str] = {
    _SUPPORTED: "são aceitos PDF, DOCX, PPTX, XLSX, EPUB, HTML, Markdown, CSV e texto simples",
    "file": "arquivo",
    "document": "documento",
    "DOCX or PDF": "DOCX ou PDF",
    "DOCX, XLSX, PPTX or PDF": "DOCX, XLSX, PPTX ou PDF",
    "a PNG picture": "uma imagem PNG",
    "a JPEG picture": "uma imagem JPEG",
    "a GIF picture": "uma imagem GIF",
    "a TIFF picture": "uma imagem TIFF",
    "a sound, video or WebP file": "um arquivo de som, vídeo ou WebP",
    "a video, sound or HEIC file": "um arquivo de vídeo, som ou HEIC",
    "a gzip archive": "um pacote gzip",
    "a bzip2 archive": "um pacote bzip2",
    "a 7z archive": "um pacote 7z",
    "a RAR archive": "um pacote RAR",
    "an archive, not a document": "um pacote, não um documento",
    "a Windows program": "um programa do Windows",
    "a program": "um programa",
    "an MP3 file": "um arquivo MP3",
    "an Ogg file": "um arquivo Ogg",
    "an SQLite database": "um banco de dados SQLite",
    "a PostScript file": "um arquivo PostScript",
    "an RTF file": "um arquivo RTF",
    "an OpenDocument file": "um arquivo OpenDocument",
    "an old Word, Excel or PowerPoint file": "um arquivo antigo do Word, Excel ou PowerPoint",
}
# Of what else is said, at least the kind.
_REASONS: Mapping[str, str] = {
    "CREDENTIALS_MISSING": "falta a chave de API",
    "CREDENTIALS_INVALID": "a chave de API não é válida",
    "CREDENTIALS_EXPIRED": "a chave de API venceu",
    "API_KEY_ENDED": "a chave de API foi encerrada",
    "PERMISSION_MISSING": "esta chave de API não tem permissão para isso",
    "TENANT_INACTIVE": "a conta da organização está desativada",
    "QUOTA_EXCEEDED": "a cota de tokens não basta para este pedido",
    "RATE_LIMITED": "pedidos demais; tente mais tarde",
    "RESOURCE_NOT_FOUND": "não existe, ou pertence a outra organização",
    "DOCUMENT_TOO_LARGE": "o arquivo é maior do que o permitido",
    "DEPENDENCY_UNAVAILABLE": "um serviço necessário não responde no momento",
    "DEADLINE_EXCEEDED": "a resposta demorou demais",
    "PROVIDER_FAILED": "o modelo de linguagem falhou",
    "INTERNAL": "erro interno do serviço",
}
_NUMBER = re.compile(r"\d[\d,]*")


def in_portuguese(reason: str, message: str) -> str:
    """The message of an error with that reason ("" for none); as it is where nothing better is known."""
    for pattern, sentence in _PATTERNS:
        if found := pattern.fullmatch(message):
            return sentence.format(*map(_term, found.groups()))
    return _REASONS.get(reason, message)


def _term(text: str) -> str:
    return text.replace(",", ".") if _NUMBER.fullmatch(text) else _TERMS.get(text, text)


def _pattern(sentence: str) -> re.Pattern[str]:
    return re.compile(re.escape(sentence).replace(r"\{\}", "(.*?)"), re.DOTALL)


_PATTERNS = tuple((_pattern(english), portuguese) for english, portuguese in _SENTENCES.items())
