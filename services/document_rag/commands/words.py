"""What the commands say to people, in English and in Portuguese. Machines read --json, which is the same in both."""

from collections.abc import Mapping

from services.document_rag.commands.portuguese import in_portuguese

LANGUAGES = ("en", "pt")

_WORDS: Mapping[str, tuple[str, str]] = {
    # stages and states
    "CHECKING": ("checking", "conferindo"),
    "SENDING": ("sending", "enviando"),
    "QUEUED": ("waiting", "na fila"),
    "EXTRACTING": ("reading", "lendo"),
    "CHUNKING": ("cutting", "dividindo"),
    "EMBEDDING": ("embedding", "vetorizando"),
    "INDEXING": ("indexing", "indexando"),
    "READY": ("searchable", "pesquisável"),
    "FAILED": ("failed", "falhou"),
    "SKIPPED": ("not kept", "não guardado"),
    "PENDING": ("not searchable yet", "ainda não pesquisável"),
    "UNDECIDED": ("to be decided", "a decidir"),
    # verdicts
    "NEW": ("new", "novo"),
    "DUPLICATE_OF": ("already there", "já existia"),
    "NEW_VERSION_OF": ("new version", "nova versão"),
    "SUSPECTED": ("similar title", "título parecido"),
    # prosa-ingest
    "files": ("Files", "Arquivos"),
    "verdict": ("Verdict", "Veredito"),
    "state": ("State", "Estado"),
    "count": ("Files", "Arquivos"),
    "file": ("File", "Arquivo"),
    "why": ("Why", "Motivo"),
    "nothing": ("no file matches", "nenhum arquivo corresponde"),
    "missing": ("there is no such file or folder: {}", "não há tal arquivo ou pasta: {}"),
    "same_source": (
        "{1} and {2} would be versions of one document, {0}: name the folder that holds both",
        "{1} e {2} seriam versões do mesmo documento, {0}: indique a pasta que contém os dois",
    ),
    "no_key": ("an API key is needed: --api-key or PROSA_API_KEY", "falta a chave de API: --api-key ou PROSA_API_KEY"),
    "bad_key": (
        "what is given as the API key holds characters that no key has",
        "o que foi dado como chave de API tem caracteres que nenhuma chave tem",
    ),
    "bad_url": (
        "{} is no address of a gateway, as http://127.0.0.1:8080 is",
        "{} não é endereço de um gateway, como http://127.0.0.1:8080",
    ),
    "interrupted": (
        "interrupted; run the same command again to go on",
        "interrompido; repita o mesmo comando para continuar",
    ),
    "unreachable": ("cannot go on: {}", "não é possível continuar: {}"),
    "not_tried": ("{} files were not tried", "{} arquivos não foram tentados"),
    # prosa-ask
    "STEP_KIND_ROUTE": ("decides who answers", "decide quem responde"),
    "STEP_KIND_PLAN": ("plans", "planeja"),
    "STEP_KIND_ANSWER": ("answers", "responde"),
    "STEP_KIND_COMPOSE": ("composes", "compõe a resposta"),
    "STEP_STATE_STARTED": ("started", "começou"),
    "STEP_STATE_FINISHED": ("done", "pronto"),
    "STEP_STATE_FAILED": ("failed", "falhou"),
    "which_assistant": (
        "which assistant? --assistant or PROSA_ASSISTANT_ID; there are:",
        "qual assistente? --assistant ou PROSA_ASSISTANT_ID; há:",
    ),
    "no_question": ("the question is empty", "a pergunta está vazia"),
    "no_assistant": ("there is no assistant yet", "ainda não há assistente"),
    "sources": ("Sources", "Fontes"),
    "page": ("p. {}", "p. {}"),
    "conversation": ("conversation {}", "conversa {}"),
    "no_conversation": ("there is no conversation to continue", "não há conversa para continuar"),
    "unsupported": ("not borne out by the documents: {}", "sem apoio nos documentos: {}"),
    "prompt": ("You: ", "Você: "),
    "cut_short": ("the answer is cut short ({})", "a resposta foi cortada ({})"),
}


class Words:
    """The messages in one language."""

    def __init__(self, language: str) -> None:
        self._column = LANGUAGES.index(language)

    def __call__(self, name: str, *values: object) -> str:
        """The message of that name, with the values in its places; the name itself when there is none."""
        texts = _WORDS.get(name)
        return texts[self._column].format(*values) if texts else name

    def error(self, reason: str, message: str) -> str:
        """What the service said of an error, with its reason behind it, where it has one."""
        said = in_portuguese(reason, message) if LANGUAGES[self._column] == "pt" else message
        return f"{said} ({reason})" if reason else said
