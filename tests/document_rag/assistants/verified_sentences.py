"""Sentences as models write them over four passages, and what a careful reader says of each.

Written before the thresholds were chosen. What the verifier gets wrong stays in the set.
"""

from services.document_rag.assistants.verifier import Support
from tests.document_rag.passages import passage

PASSAGES = (
    passage(
        "A cota única do IPTU vence em 10 de março de 2027 e tem desconto de 12%. Quem preferir pode pagar em até dez "
        "parcelas mensais, sem desconto, de março a dezembro. A parcela mínima é de R$ 45,00. Depois do vencimento há "
        "multa de 2% e juros de 1% ao mês.",
        title="IPTU 2027",
        section="Vencimentos",
    ),
    passage(
        "A coleta seletiva passa às terças e quintas-feiras, a partir das 7h30. O lixo comum é recolhido de segunda a "
        "sábado. Móveis velhos não são recolhidos pela coleta comum: peça a retirada pelo telefone 156, com "
        "antecedência de 5 dias úteis.",
        title="Coleta de lixo",
    ),
    passage(
        "O alvará de funcionamento custa R$ 1.234,50 por ano para comércios de até 100 m². Microempreendedores "
        "individuais não pagam a taxa. O prazo de análise é de 15 dias úteis.",
        title="Alvarás e licenças",
    ),
    passage(
        "The library opens from 8:00 to 18:00, Monday to Friday. Members may borrow up to five books for 14 days. "
        "Late returns cost $0.50 per day.",
        title="Public library",
    ),
)

YES, PARTLY, NO = Support.SUPPORTED, Support.PARTLY, Support.UNSUPPORTED

SENTENCES: tuple[tuple[str, Support], ...] = (
    # Verbatim, and nearly so.
    ("A cota única do IPTU vence em 10 de março de 2027 e tem desconto de 12%. [1]", YES),
    ("A parcela mínima é de R$ 45,00 [1].", YES),
    ("O lixo comum é recolhido de segunda a sábado [2].", YES),
    ("Microempreendedores individuais não pagam a taxa. [3]", YES),
    ("Members may borrow up to five books for 14 days [4].", YES),
    # In other words.
    ("O IPTU em cota única vence no dia 10/03/2027 [1].", YES),
    ("Pagando em cota única, o desconto do IPTU é de 12 por cento [1].", YES),
    ("O pagamento pode ser feito em até 10 parcelas mensais, sem desconto [1].", YES),
    ("Depois do vencimento, cobra-se multa de 2% e juros de 1% ao mês [1].", YES),
    ("A coleta seletiva passa nas terças e quintas a partir das 7:30 [2].", YES),
    ("Para retirar móveis velhos, peça pelo telefone 156 com antecedência de 5 dias úteis [2].", YES),
    ("O alvará de funcionamento custa 1234,50 reais por ano [3].", YES),
    ("O prazo de análise do alvará é de 15 dias úteis [3].", YES),
    ("Até 5 livros? No: members may borrow up to 5 books [4].", YES),
    ("Late returns cost $0.50 per day [4].", YES),
    ("A multa é de 2% [1] e o telefone é 156 [2].", YES),
    # A figure that no cited passage has.
    ("A cota única do IPTU vence em 10 de março de 2027 e tem desconto de 15%. [1]", NO),
    ("A cota única do IPTU vence em 12 de março de 2027 [1].", NO),
    ("A cota única do IPTU vence em 10 de março de 2026 [1].", NO),
    ("A parcela mínima é de R$ 54,00 [1].", NO),
    ("Depois do vencimento há multa de 20% [1].", NO),
    ("A parcela mínima é de 45% [1].", NO),
    ("A coleta seletiva passa às terças e quintas-feiras, a partir das 8h30 [2].", NO),
    ("Peça a retirada pelo telefone 165 [2].", NO),
    ("O alvará de funcionamento custa R$ 12.345,00 por ano [3].", NO),
    ("O prazo de análise é de 30 dias úteis [3].", NO),
    ("Members may borrow up to 7 books [4].", NO),
    ("The library opens from 9:00 to 18:00 [4].", NO),
    # Invented, or of something else.
    ("A prefeitura oferece aulas gratuitas de natação na piscina municipal [1].", NO),
    ("O prefeito inaugurou ontem um hospital novo no bairro Jardim [2].", NO),
    ("The mayor opened a swimming pool downtown [4].", NO),
    ("É preciso apresentar certidão de nascimento e comprovante de vacinação [3].", NO),
    ("A coleta seletiva passa às terças e quintas-feiras [7].", NO),
    # A part of it, the wrong passage, no passage.
    ("A cota única do IPTU vence em 10 de março, e o carnê chega pelo correio na casa do contribuinte [1].", PARTLY),
    ("O alvará de funcionamento custa caro para comércios pequenos, segundo os moradores [3].", PARTLY),
    ("O prazo de análise é de 15 dias úteis [1].", PARTLY),
    ("A parcela mínima é de R$ 45,00 [2].", PARTLY),
    ("A coleta seletiva passa às terças e quintas-feiras, a partir das 7h30.", PARTLY),
    ("O lixo comum é recolhido de segunda a sábado e também aos domingos e feriados nacionais [2].", PARTLY),
    # The opposite.
    ("Microempreendedores individuais pagam a taxa [3].", PARTLY),
    ("Móveis velhos são recolhidos pela coleta comum [2].", PARTLY),
    ("A cota única do IPTU não tem desconto [1].", PARTLY),
    # Hard ones: the words are there, what they say is not.
    ("A multa depois do vencimento é de 1% e os juros são de 2% ao mês [1].", NO),
    ("O lixo comum é recolhido às terças e quintas-feiras [2].", NO),
    ("A coleta seletiva ocorre nas terças e quintas pela manhã cedo [2].", PARTLY),
)

NOTHING_STATED = (
    "Olá!",
    "Claro, posso ajudar.",
    "Posso ajudar em algo mais?",
    "Segundo os documentos:",
    "## IPTU",
    "Não encontrei essa informação nos documentos.",
    "I did not find that in the documents.",
)
