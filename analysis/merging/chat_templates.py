"""Chat templates that recipes may call by name: how the turns of a conversation are written for five families of models."""

_TURN = "{% set said = message['content'] | trim %}"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    f"{_TURN}<|start_header_id|>{{{{ message['role'] }}}}<|end_header_id|>{{{{ '\n\n' + said }}}}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}"
)

MISTRAL = (
    "{{ bos_token }}{% set turn = namespace(before='') %}{% for message in messages %}{% set said = message['content'] %}"
    "{% if message['role'] == 'system' %}{% set turn.before = said + '\n\n' %}"
    "{% elif message['role'] == 'user' %}{{ ' [INST] ' + turn.before + said + ' [/INST]' }}{% set turn.before = '' %}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + said + eos_token }}"
    "{% else %}{{ raise_exception('roles are system, user and assistant') }}{% endif %}{% endfor %}"
)

EXAONE = (
    "{% for message in messages %}{% set role = message['role'] %}"
    "{% if loop.first and role != 'system' %}[|system|][|endofturn|]{{ '\n' }}{% endif %}"
    "{{ '[|' + role + '|]' + message['content'] }}{{ '\n' if role == 'user' else '[|endofturn|]\n' }}"
    "{% endfor %}{% if add_generation_prompt %}[|assistant|]{% endif %}"
)

ALPACA = (
    "{% set headings = {'user': 'Instruction', 'user_context': 'Input', 'assistant': 'Response'} %}"
    f"{{% for message in messages %}}{_TURN}"
    "{% if message['role'] in headings %}{{ '### ' + headings[message['role']] + ':\n' + said + '\n\n' }}"
    "{% else %}{{ said + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Response:{{ '\n' }}{% endif %}"
)

CHAT_TEMPLATES = {"alpaca": ALPACA, "chatml": CHATML, "exaone": EXAONE, "llama3": LLAMA3, "mistral": MISTRAL}
