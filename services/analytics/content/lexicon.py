"""What words say about subjects and feelings: the knowledge of the rules, in Portuguese and English.

Words are written folded (no accents). Those of subjects, wishes and issues are matched by their stems, so one form
stands for all its inflections. A pair of words counts where the two stand next to each other, with or without function
words between them.
"""

# Subject → its name in the topic map, words that speak of it strongly, and words that only lean towards it.
SUBJECTS: dict[str, tuple[str, str, str]] = {
    "impostos": (
        "Impostos e taxas",
        """
        iptu itbi iss issqn imposto tributo tributario aliquota refis predial carne_imposto valor_venal divida_ativa
        nota_fiscal_iss taxa_iluminacao cota_unica property_tax tax taxes lancamento
        """,
        "isencao carne parcela municipio debitos protesto fiscal",
    ),
    "iluminacao": (
        "Iluminação pública",
        """
        poste lampada iluminacao luminaria refletor led breu escuridao rua_escura fios street_light streetlight lamp
        luz_rua luz_praca
        """,
        "luz escuro escura apagado apagada aceso piscando oscilando fiacao energia ",
    ),
    "limpeza": (
        "Coleta de lixo e limpeza",
        """
        lixo coleta entulho gari varricao capina rocagem reciclavel reciclagem seletiva lixeira ecoponto cata_treco
        cata_bagulho descarte descarto aterro caminhao_lixo terreno_baldio garbage trash recycling limpeza_urbana
        mato
        """,
        "limpeza sujeira sujo rato barata fedendo fedor descartar bueiro_limpar limpar ",
    ),
    "vias": (
        "Ruas, calçadas e trânsito",
        """
        buraco asfalto asfaltar pavimentacao recapeamento calcada lombada semaforo faixa_pedestre sinalizacao
        cratera tapa_buraco pedestre rotatoria placa_pare transito multa_transito esburacado ponte viaduto pothole
        road sidewalk ciclovia vaga_especial pista estacionamento
        """,
        "rua avenida obra carro moto fechada cruzamento esquina placa velocidade pneu estrada",
    ),
    "agua": (
        "Água e esgoto",
        """
        agua esgoto hidrometro vazamento encanamento torneira abastecimento saneamento caixa_dagua bueiro ralo
        conta_agua falta_agua water sewer cano entupimento desentupimento
        """,
        "vaza entupido companhia ligacao ",
    ),
    "saude": (
        "Saúde",
        """
        saude medico medica enfermeira enfermeiro upa ubs sus posto_saude postinho hospital consulta exame vacina
        vacinacao remedio medicamento dentista pediatra cirurgia samu ambulancia receita insulina doutor doutora
        cardiologista ortopedista farmacia doctor vaccine flu clinic paciente injecao preventivo
        """,
        "posto agendar fichas laudo fila acamado",
    ),
    "educacao": (
        "Educação",
        """
        escola creche professor professora matricula rematricula merenda aluno aula ensino emei emef eja
        historico_escolar uniforme_escolar diretora monitora school teacher curso_tecnico onibus_escolar educacao
        material_escolar
        """,
        "uniforme vaga notas crianca estudar filho filha declaracao",
    ),
    "transporte": (
        "Transporte público",
        """
        onibus motorista linha itinerario passagem bilhete terminal passe_livre cartao_idoso ponto_onibus metro
        transporte rodoviaria cobrador tarifa_onibus cartao_transporte bus lotacao van integracao
        """,
        "ponto horario lotado trem passageiro embarque",
    ),
    "documentos": (
        "Alvarás, certidões e documentos",
        """
        alvara certidao licenca habite_se protocolo processo documento documentos nota_fiscal carteira_identidade
        vigilancia_sanitaria mei burocracia licenciamento cartorio planta_aprovada permit certificate carimbo
        """,
        "emitir copia andamento abrir_empresa analise papel requerimento",
    ),
    "social": (
        "Assistência social",
        """
        cras creas cadunico cadastro_unico bolsa_familia beneficio cesta_basica assistente_social bpc auxilio
        auxilio_aluguel abrigo minha_casa vulneravel idoso_maltratado situacao_rua aluguel_social cesta
        assistencia_social violencia agride welfare
        """,
        "renda familia idoso fome necessidade pobre maltratado agredir",
    ),
    "ambiente": (
        "Meio ambiente e animais",
        """
        poda arvore cachorro gato animal animais castracao castrar zoonoses canil queimada queimando barulho
        som_alto dengue mosquito parque horta maus_tratos fumaca ipe desmatamento poluicao cortar_arvore bicho tree
        dog cat noise
        """,
        "som vizinho plantar verde praca natureza quintal",
    ),
    "entrega": (
        "Entrega e frete",
        """
        entrega entregar entregador frete rastreio rastrear rastreamento encomenda transportadora correio correios
        pedido_atrasado pedido_chegou endereco_entrega pacote delivery deliver package shipping delivered
        order_arrived prazo_entrega meu_pedido
        """,
        "pedido chegou chegar chegada atrasado caixa recebi embalado embalagem prazo portaria cep",
    ),
    "pagamento": (
        "Pagamento e cobrança",
        """
        pagamento boleto fatura pix cobranca cobrado cobraram cobrou parcelar cartao_credito cartao_debito debito
        juros comprovante debitaram debitado cashback desconto_fatura payment invoice billing charged vencimento
        renegociar tarifa loterica bill
        """,
        "pagar paguei cartao parcela desconto valor divida taxa recusado negociei conta",
    ),
    "troca": (
        "Troca, devolução e reembolso",
        """
        troca trocar devolucao devolver devolvi reembolso estorno reembolsar estornar vale_troca vale_compra refund
        return exchange dinheiro_volta etiqueta_postagem etiqueta_devolucao errado_produto
        """,
        "dinheiro serviu pequena tamanho errada errado etiqueta",
    ),
    "acesso": (
        "Acesso e cadastro",
        """
        senha login aplicativo cadastro conta_bloqueada entrar_sistema usuario verificacao email_cadastro site_fora
        password account acesso portal redefinir lgpd dados_pessoais trava buga site sistema autenticacao
        """,
        "entrar abre erro codigo link telefone atualizar bloqueada cpf sms instalei",
    ),
    "produto": (
        "Produto e defeito",
        """
        defeito garantia assistencia_tecnica geladeira televisao celular_tela notebook fone liquidificador bateria
        ventilador tenis vestido sapato produto quebrado tela modelo panela roupa montagem manual bivolt tecido
        microondas cafeteira maquina_lavar product quality broke blender aspirador mochila relogio camiseta cadeira
        """,
        "qualidade comprei compra rasgou parou tamanho peca queimou estampa",
    ),
    "internet": (
        "Internet e telefonia",
        """
        internet wifi wi_fi fibra modem roteador sinal mega velocidade_internet conexao telefone_fixo portabilidade
        operadora plano_internet dados_moveis franquia chip router connection banda_larga 4g 5g
        """,
        "velocidade tecnico plano lenta cai celular caindo",
    ),
    "atendimento": (
        "Atendimento",
        """
        atendimento atendente atendido atendida robo ouvidoria supervisor balcao guiche telefone_central atender
        mal_educado grosseiro grossa mal_tratada support agent service ligacao_caiu humano central_atendimento sac
        call_center
        """,
        "espera transferem transferiram responde ligacao educado educada paciencia funcionaria funcionario resposta",
    ),
    "cancelamento": (
        "Cancelamento",
        """
        cancelar cancelamento cancelei cancele cancela encerrar_conta encerramento rescisao desistir desisti cancel
        cancellation unsubscribe desistencia
        """,
        "assinatura contrato multa inscricao",
    ),
}

OTHER = "outro"

# Words that say how somebody feels: the weight is how sure they are of it.
FEELINGS: dict[str, float] = {
    **dict.fromkeys(
        """
        adorei amei excelente maravilhoso maravilha otimo perfeito parabens sensacional incrivel impressionante
        grato grata gratidao satisfeito satisfeita feliz recomendo eficiente atencioso atenciosa elogiar elogio
        encantado fantastico show top excellent great love amazing awesome wonderful nota_dez nota_mil nota_10
        nota_1000 super_bem muito_bom muito_bem ajudou_muito ajudou_demais muito_obrigado muito_obrigada
        valeu_demais deu_certo mil_maravilhas gostei adoro amor rapidez agilidade agradeco lindo linda delicioso
        deliciosa tranquilo honesto honestidade carinho dedicada superou fiel sao_demais bastante_bom file massa
        """.split(),
        2.0,
    ),
    **dict.fromkeys(
        """
        bom boa legal bacana obrigado obrigada valeu agradecer bonito limpinho rapidinho rapido facil pratico melhor
        educado educada conforto seguro resolvido resolveram resolveu conseguiram consertou consertaram voltou
        finalmente thanks thank good nice fast direitinho certinho conseguiu consegui ajudou certo_tudo boas
        """.split(),
        0.8,
    ),
    **dict.fromkeys(
        """
        pessimo pessima horrivel terrivel absurdo descaso vergonha vergonhoso palhacada ridiculo nojento nojo
        app_lixo aplicativo_lixo odio raiva odeio decepcao decepcionado indignado indignada revoltado inaceitavel
        insuportavel desrespeito falta_respeito abuso abusivo roubo roubando enganacao mentira mentirosos
        incompetente incompetencia inutil porcaria merda idiota burro carai caramba zuado zuada vagabundo cansei
        cansado caos abandono abandonado sacanagem osso bagunca injusto injustamente procon processar awful terrible
        horrible worst hate angry useless unacceptable bad perigoso perigo maltratam grosso grossa mal_educado
        injustica desperdicio perda_tempo triste abusivos aguento
        """.split(),
        -2.0,
    ),
    **dict.fromkeys(
        """
        problema reclamar reclamacao reclamei demora demorando atraso atrasado atrasada quebrado quebrada defeito
        erro falha fedendo fedor sujo sujeira escuro buraco buracos parado parada sumiu lotado lento lenta caro
        trava travando cai caiu bloqueada recusado cobrado_duas acumulado acumulando apagado apagada estragado
        rasgou queimou errado errada vazando golpe falso ruim dificil ninguem_resolve ninguem nunca ninguem_atende
        ninguem_responde ninguem_faz nada_feito nao_resolve nao_funciona nao_chegou nao_recebi broken never nobody
        late wrong slow machucou assaltados fila esperando faltam falta sem_agua sem_internet sem_luz sem_professor
        sem_remedio sem_medico de_novo outra_vez ate_agora ate_hoje sem_aviso sem_motivo
        """.split(),
        -0.9,
    ),
}

NEGATIONS = frozenset("nao nem nunca jamais sem nenhum nenhuma not never no".split())
# A negation turns the words around that belong to the same breath.
NEGATION_REACH = 3
EMOJIS = {
    "😀": 2.0,
    "😃": 2.0,
    "😊": 2.0,
    "❤": 2.0,
    "👏": 2.0,
    "👍": 1.0,
    "🙏": 1.0,
    "😍": 2.0,
    "😡": -2.0,
    "😠": -2.0,
    "🤬": -2.0,
    "😤": -2.0,
    "👎": -2.0,
    "😢": -1.5,
    "😭": -1.5,
    "🙄": -1.5,
    "🤡": -2.0,
}

# What a person wants → words that say so.
WISHES: dict[str, str] = {
    "sugestao": """
        sugiro sugestao sugerir proponho proposta que_tal seria_bom seria_legal seria_interessante poderiam_ter
        poderiam_colocar poderiam_oferecer poderiam_lancar suggestion suggest poderiam
        """,
    "denuncia": """
        denuncia denunciar maus_tratos clandestina clandestino ilegal golpe clonaram agride agressao maltratado
        maltratando crime bebado desencapados racha falso queimando suspeito fraude autorizacao_sem descartando
        """,
    "solicitacao": """
        solicito solicitar quero desejo preciso gostaria pedido_de favor envia peco me_passa requeiro please
        precisamos queria agendar podem mudar trocar cadastrar excluir reset want
        """,
    "informacao": """
        como onde qual quais quando quanto quantos quem horario prazo posso pode tem aceita existe funciona where
        when what how which sabe que_horas que_dia
        """,
}

# What went wrong → words that say so; looked at only where somebody complains.
ISSUES: dict[str, str] = {
    "atraso": """
        atraso atrasado atrasada demora demorando prazo esperando espera ainda meses semanas fila parado ate_hoje
        late waiting
        """,
    "cobranca": """
        cobranca cobrado cobraram boleto fatura valor juros taxa debitaram caro estorno reembolso charged refund
        """,
    "defeito": """
        defeito quebrado quebrada estragado queimou parou rasgou queimado queimada buraco apagado vazamento broken
        """,
    "atendimento": """
        atendente atendimento grosso grossa robo educado desligou respeito ninguem_atende rude
        """,
    "acesso": """
        senha login aplicativo site sistema acesso bloqueada trava entrar cadastro password
        """,
    "informacao": """
        informa informacao explicacao explica avisar aviso errada diferente confuso
        """,
    "servico": """
        coleta onibus medico professor agua luz internet sinal falta passou veio remedio merenda tecnico service
        """,
}
