/* jinja_parse.c - the statements of a template: what may stand behind {%. */
#include "jinja_parse.h"
#include "jinja_expression.h"

static Node *parse_body(Parser *p, const char *const *ends);

static bool at_end_word(const Parser *p, const char *const *ends) {
    for (; *ends; ends++)
        if (parser_at_name(p, *ends)) return true;
    return false;
}

/* From behind the opening tag's words up to one of the end words, which stays current. */
static Node *parse_inside(Parser *p, const char *const *ends) {
    parser_skip(p, ":");
    parser_expect_kind(p, TOKEN_BLOCK_END, "%}");
    return parse_body(p, ends);
}

static Node *parse_until(Parser *p, const char *end) {
    Node *body = parse_inside(p, (const char *const[]){end, NULL});
    parser_next(p);
    return body;
}

static Node *parse_if(Parser *p) {
    static const char *const ENDS[] = {"elif", "else", "endif", NULL};
    Node *first = NULL, **link = &first;
    do { /* the chain hangs on c: if, elif, elif, ..., else */
        Node *n = node_new(p, NODE_IF);
        parser_next(p);
        n->a = parse_tuple(p, false);
        n->b = parse_inside(p, ENDS);
        *link = n;
        link = &n->c;
    } while (parser_at_name(p, "elif"));
    if (parser_skip_name(p, "else")) {
        *link = parse_until(p, "endif");
    } else {
        parser_next(p);
    }
    return first;
}

static Node *parse_for(Parser *p) {
    static const char *const ENDS[] = {"else", "endfor", NULL};
    Node *n = node_new(p, NODE_FOR), *otherwise = NULL;
    parser_next(p);
    n->a = parse_target(p, false);
    if (!parser_skip_name(p, "in")) parser_fail(p, "in");
    n->b = parse_tuple(p, false);
    n->c = parser_skip_name(p, "if") ? parse_expression(p) : NULL;
    n->recursive = parser_skip_name(p, "recursive");
    p->loops++;
    node_add(p, &n->list, parse_inside(p, ENDS));
    p->loops--;
    if (parser_skip_name(p, "else")) {
        otherwise = parse_until(p, "endfor");
    } else {
        parser_next(p);
    }
    node_add(p, &n->list, otherwise);
    return n;
}

static Node *parse_set(Parser *p) {
    Node *n = node_new(p, NODE_SET);
    parser_next(p);
    n->a = parse_target(p, true);
    if (parser_skip(p, "=")) {
        n->b = parse_tuple(p, true);
        return n;
    }
    n->kind = NODE_SET_BLOCK;
    if (parser_skip(p, "|")) n->c = parse_filters_only(p, node_new(p, NODE_CAPTURED));
    n->b = parse_until(p, "endset");
    return n;
}

static Params *parse_params(Parser *p) {
    Params *params = run_take(p->r, sizeof *params);
    NodeList fallback = {0};
    parser_expect(p, "(");
    while (!parser_at(p, ")")) {
        if (params->n) parser_expect(p, ",");
        if (parser_at(p, ")")) break;
        params->name = names_add(p, params->name, params->n++, parser_expect_name(p));
        bool has = parser_skip(p, "=");
        if (!has && fallback.n && fallback.at[fallback.n - 1])
            parser_fail(p, "a default, as the parameter before it has one");
        node_add(p, &fallback, has ? parse_expression(p) : NULL);
    }
    parser_next(p);
    params->fallback = fallback.at;
    return params;
}

/* The body of a macro, whose parameters are read already. */
static Node *parse_macro_body(Parser *p, Node *macro, const char *end) {
    Params *outer = p->macro;
    int loops = p->loops;
    p->macro = macro->params;
    p->loops = 0;
    macro->a = parse_until(p, end);
    p->macro = outer;
    p->loops = loops;
    if (outer) { /* names read in an inner macro count for the outer one too */
        outer->takes_rest |= macro->params->takes_rest;
        outer->takes_named |= macro->params->takes_named;
        outer->takes_caller |= macro->params->takes_caller;
    }
    return macro;
}

static Node *parse_macro(Parser *p) {
    Node *n = node_new(p, NODE_MACRO);
    parser_next(p);
    n->name = parser_expect_name(p);
    n->params = parse_params(p);
    return parse_macro_body(p, n, "endmacro");
}

static Node *parse_call_block(Parser *p) {
    Node *n = node_new(p, NODE_CALL_BLOCK), *caller = node_new(p, NODE_MACRO);
    parser_next(p);
    caller->name = STR("caller");
    caller->params = parser_at(p, "(") ? parse_params(p) : run_take(p->r, sizeof(Params));
    n->a = parse_expression(p);
    if (n->a->kind != NODE_CALL) parser_fail(p, "a call of a macro before it");
    n->b = parse_macro_body(p, caller, "endcall");
    return n;
}

static Node *parse_filter_block(Parser *p) {
    Node *n = node_new(p, NODE_FILTER_BLOCK);
    parser_next(p);
    n->a = parse_filters_only(p, node_new(p, NODE_CAPTURED));
    n->b = parse_until(p, "endfilter");
    return n;
}

static Node *parse_with(Parser *p) {
    Node *n = node_new(p, NODE_WITH);
    parser_next(p);
    while (p->t->kind != TOKEN_BLOCK_END) {
        if (n->list.n) parser_expect(p, ",");
        node_add(p, &n->list, parse_target(p, false));
        parser_expect(p, "=");
        node_add(p, &n->list, parse_expression(p));
    }
    n->a = parse_until(p, "endwith");
    return n;
}

static Node *parse_generation(Parser *p) {
    Node *n = node_new(p, NODE_SCOPE);
    parser_next(p);
    n->a = parse_until(p, "endgeneration");
    return n;
}

static Node *parse_jump(Parser *p, NodeKind kind) {
    Node *n = node_new(p, kind);
    if (!p->loops) parser_fail(p, "a for loop around it");
    parser_next(p);
    return n;
}
static Node *parse_break(Parser *p) { return parse_jump(p, NODE_BREAK); }
static Node *parse_continue(Parser *p) { return parse_jump(p, NODE_CONTINUE); }

static Node *parse_print(Parser *p) {
    Node *n = node_new(p, NODE_BLOCK);
    parser_next(p);
    do {
        Node *print = node_new(p, NODE_PRINT);
        print->a = parse_expression(p);
        node_add(p, &n->list, print);
    } while (parser_skip(p, ","));
    return n;
}

static Node *parse_statement(Parser *p) {
    static const struct {
        const char *name;
        Node *(*parse)(Parser *p);
    } STATEMENTS[] = {
        {"if", parse_if},           {"for", parse_for},
        {"set", parse_set},         {"macro", parse_macro},
        {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with},       {"generation", parse_generation},
        {"break", parse_break},     {"continue", parse_continue},
        {"print", parse_print},
    };
    static const char *const WITHOUT[] = {"block",  "extends", "include",
                                          "import", "from",    "autoescape"};
    for (size_t i = 0; i < COUNT_OF(STATEMENTS); i++)
        if (parser_at_name(p, STATEMENTS[i].name)) return STATEMENTS[i].parse(p);
    for (size_t i = 0; i < COUNT_OF(WITHOUT); i++)
        if (parser_at_name(p, WITHOUT[i]))
            run_fail(p->r, "the tag '%s' is not for chat templates and is not supported",
                     WITHOUT[i]);
    if (p->t->kind == TOKEN_NAME)
        run_fail(p->r, "unknown tag '%.*s'", (int)p->t->text.n, p->t->text.p);
    parser_fail(p, "the name of a tag");
}

/* One piece of the template; NULL where an end word of the block around stands. */
static Node *parse_piece(Parser *p, const char *const *ends) {
    Node *n = NULL;
    if (p->t->kind == TOKEN_DATA) {
        n = node_new(p, NODE_PRINT);
        n->a = node_new(p, NODE_CONST);
        n->a->value = value_str(p->t->text);
        parser_next(p);
    } else if (p->t->kind == TOKEN_PRINT_BEGIN) {
        n = node_new(p, NODE_PRINT);
        parser_next(p);
        n->a = parse_tuple(p, true);
        parser_expect_kind(p, TOKEN_PRINT_END, "}}");
    } else {
        parser_expect_kind(p, TOKEN_BLOCK_BEGIN, "a tag");
        if (at_end_word(p, ends)) return NULL;
        n = parse_statement(p);
        parser_expect_kind(p, TOKEN_BLOCK_END, "%}");
    }
    return n;
}

static Node *parse_body(Parser *p, const char *const *ends) {
    Node *body = node_new(p, NODE_BLOCK);
    if (*ends) body->line = p->t[-1].line; /* of the tag that opens it */
    parser_deeper(p);
    for (;;) {
        if (p->t->kind == TOKEN_END) {
            if (!*ends) break;
            while (ends[1]) ends++; /* the last of them is the end tag */
            run_fail(p->r,
                     "the template ends where {%% %s %%} is missing; its block opens in line %d",
                     *ends, body->line);
        }
        Node *n = parse_piece(p, ends);
        if (!n) break;
        node_add(p, &body->list, n);
    }
    p->depth--;
    return body;
}

Node *jinja_parse(Run *r, Str source) {
    TokenList tokens = jinja_lex(r, source);
    Parser p = {.r = r, .t = tokens.at};
    r->line = 1;
    return parse_body(&p, (const char *const[]){NULL});
}
