/* jinja_expression.c - see jinja_expression.h. Recursive descent with Jinja's own precedence: unary
 * minus binds tighter than **, filters and tests tighter than any operator, and all of them are
 * left-associative. */
#include "jinja_expression.h"
#include <string.h>

enum { MAX_TREE = 300 };

static Node *parse_unary(Parser *p, bool filters);

static const char *token_name(const Token *t) {
    static const char *const NAMES[] = {
        [TOKEN_DATA] = "text",       [TOKEN_PRINT_BEGIN] = "{{",
        [TOKEN_PRINT_END] = "}}",    [TOKEN_BLOCK_BEGIN] = "{%",
        [TOKEN_BLOCK_END] = "%}",    [TOKEN_STRING] = "a string",
        [TOKEN_NUMBER] = "a number", [TOKEN_END] = "the end of the template",
    };
    return NAMES[t->kind];
}

void parser_fail(Parser *p, const char *wanted) {
    const char *name = token_name(p->t);
    p->r->line = p->t->line;
    if (name) run_fail(p->r, "expected %s, found %s", wanted, name);
    run_fail(p->r, "expected %s, found '%.*s'", wanted, (int)p->t->text.n, p->t->text.p);
}

bool parser_at(const Parser *p, const char *op) {
    return p->t->kind == TOKEN_OPERATOR && str_is(p->t->text, op);
}
bool parser_at_name(const Parser *p, const char *name) {
    return p->t->kind == TOKEN_NAME && str_is(p->t->text, name);
}
void parser_next(Parser *p) {
    if (p->t->kind != TOKEN_END) p->t++;
    p->r->line = p->t->line;
}
bool parser_skip(Parser *p, const char *op) {
    if (!parser_at(p, op)) return false;
    parser_next(p);
    return true;
}
bool parser_skip_name(Parser *p, const char *name) {
    if (!parser_at_name(p, name)) return false;
    parser_next(p);
    return true;
}
void parser_expect(Parser *p, const char *op) {
    if (!parser_skip(p, op)) parser_fail(p, op);
}
void parser_expect_kind(Parser *p, TokenKind kind, const char *what) {
    if (p->t->kind != kind) parser_fail(p, what);
    parser_next(p);
}
Str parser_expect_name(Parser *p) {
    Str name = p->t->text;
    parser_expect_kind(p, TOKEN_NAME, "a name");
    return name;
}

void parser_deeper(Parser *p) {
    if (++p->depth > MAX_TREE)
        run_fail(p->r, "expressions and blocks are nested more than %d deep", MAX_TREE);
}

Node *node_new(Parser *p, NodeKind kind) {
    Node *n = run_take(p->r, sizeof *n);
    n->kind = kind;
    n->line = p->t->line;
    return n;
}

void node_add(Parser *p, NodeList *l, Node *n) {
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 4;
        Node **more = run_take(p->r, cap * sizeof *more);
        if (l->n) memcpy(more, l->at, l->n * sizeof *more);
        l->at = more;
        l->cap = cap;
    }
    l->at[l->n++] = n;
}

Str *names_add(Parser *p, Str *names, size_t n, Str name) {
    if (n % 8 == 0) {
        Str *more = run_take(p->r, (n + 8) * sizeof *more);
        if (n) memcpy(more, names, n * sizeof *more);
        names = more;
    }
    names[n] = name;
    return names;
}

/* A macro takes surplus arguments only if its body reads the names that hold them. */
static void note_name(Parser *p, Str name) {
    if (!p->macro) return;
    p->macro->takes_rest |= str_is(name, "varargs");
    p->macro->takes_named |= str_is(name, "kwargs");
    p->macro->takes_caller |= str_is(name, "caller");
}

static Node *parse_name(Parser *p) {
    static const struct {
        const char *name;
        Kind kind;
        bool b;
    } CONSTANTS[] = {{"true", IS_BOOL, true},   {"True", IS_BOOL, true},  {"false", IS_BOOL, false},
                     {"False", IS_BOOL, false}, {"none", IS_NONE, false}, {"None", IS_NONE, false}};
    Node *n = node_new(p, NODE_NAME);
    n->name = parser_expect_name(p);
    note_name(p, n->name);
    for (size_t i = 0; i < COUNT_OF(CONSTANTS); i++)
        if (str_is(n->name, CONSTANTS[i].name)) {
            n->kind = NODE_CONST;
            n->value = (Value){.kind = CONSTANTS[i].kind, .b = CONSTANTS[i].b};
        }
    return n;
}

static Node *parse_string(Parser *p) {
    Node *n = node_new(p, NODE_CONST);
    Text t = {0};
    for (; p->t->kind == TOKEN_STRING; parser_next(p)) append_str(p->r, &t, p->t->text);
    n->value = value_text(&t);
    return n;
}

static Node *parse_list(Parser *p) {
    Node *n = node_new(p, NODE_LIST);
    parser_next(p);
    while (!parser_at(p, "]")) {
        if (n->list.n) parser_expect(p, ",");
        if (parser_at(p, "]")) break;
        node_add(p, &n->list, parse_expression(p));
    }
    parser_next(p);
    return n;
}

static Node *parse_dict(Parser *p) {
    Node *n = node_new(p, NODE_DICT);
    parser_next(p);
    while (!parser_at(p, "}")) {
        if (n->list.n) parser_expect(p, ",");
        if (parser_at(p, "}")) break;
        node_add(p, &n->list, parse_expression(p));
        parser_expect(p, ":");
        node_add(p, &n->list, parse_expression(p));
    }
    parser_next(p);
    return n;
}

static Node *parse_brackets(Parser *p) {
    parser_next(p);
    if (parser_at(p, ")")) { /* () is the empty tuple */
        Node *n = node_new(p, NODE_TUPLE);
        parser_next(p);
        return n;
    }
    Node *n = parse_tuple(p, true);
    parser_expect(p, ")");
    return n;
}

static Node *parse_primary(Parser *p) {
    if (p->t->kind == TOKEN_NAME) return parse_name(p);
    if (p->t->kind == TOKEN_STRING) return parse_string(p);
    if (p->t->kind == TOKEN_NUMBER) {
        Node *n = node_new(p, NODE_CONST);
        n->value = p->t->value;
        parser_next(p);
        return n;
    }
    if (parser_at(p, "(")) return parse_brackets(p);
    if (parser_at(p, "[")) return parse_list(p);
    if (parser_at(p, "{")) return parse_dict(p);
    parser_fail(p, "an expression");
}

static CallArgs *parse_args(Parser *p) {
    CallArgs *args = run_take(p->r, sizeof *args);
    parser_expect(p, "(");
    for (bool first = true; !parser_at(p, ")"); first = false) {
        if (!first) parser_expect(p, ",");
        if (parser_at(p, ")")) break;
        const Token *ahead = p->t->kind == TOKEN_NAME ? p->t + 1 : p->t;
        if (parser_skip(p, "*")) {
            if (args->star || args->star_star) parser_fail(p, "one *list of arguments");
            args->star = parse_expression(p);
        } else if (parser_skip(p, "**")) {
            if (args->star_star) parser_fail(p, "one **dict of arguments");
            args->star_star = parse_expression(p);
        } else if (ahead != p->t && ahead->kind == TOKEN_OPERATOR && str_is(ahead->text, "=")) {
            args->key = names_add(p, args->key, args->value.n, parser_expect_name(p));
            parser_next(p);
            node_add(p, &args->value, parse_expression(p));
        } else {
            if (args->value.n || args->star || args->star_star)
                parser_fail(p, "a named argument, as those before it are");
            node_add(p, &args->at, parse_expression(p));
        }
    }
    parser_next(p);
    return args;
}

static Node *parse_subscript(Parser *p, Node *of) {
    Node *n = node_new(p, NODE_ELEMENT);
    n->a = of;
    if (parser_skip(p, ".")) {
        if (p->t->kind == TOKEN_NAME) {
            n->kind = NODE_ATTRIBUTE;
            n->name = parser_expect_name(p);
        } else if (p->t->kind == TOKEN_NUMBER && p->t->value.kind == IS_INT) {
            n->b = parse_primary(p);
        } else {
            parser_fail(p, "the name of an attribute");
        }
        return n;
    }
    parser_next(p);
    Node *part[3] = {0};
    int at = 0;
    while (!parser_at(p, "]")) {
        if (parser_at(p, ",")) parser_fail(p, "one index; indices with commas are not supported");
        if (!parser_at(p, ":")) part[at] = parse_expression(p);
        if (parser_at(p, "]")) break;
        parser_expect(p, ":");
        n->kind = NODE_SLICE;
        if (++at == 3) parser_fail(p, "]");
    }
    parser_next(p);
    n->b = part[0];
    if (n->kind == NODE_SLICE) {
        for (int i = 0; i < 3; i++) node_add(p, &n->list, part[i]);
    } else if (!n->b) {
        parser_fail(p, "an index before ]");
    }
    return n;
}

Node *parse_call_of(Parser *p, Node *of) {
    Node *n = node_new(p, NODE_CALL);
    n->a = of;
    n->args = parse_args(p);
    return n;
}

static Node *parse_postfix(Parser *p, Node *n) {
    for (;;) {
        if (parser_at(p, ".") || parser_at(p, "[")) {
            n = parse_subscript(p, n);
        } else if (parser_at(p, "(")) {
            n = parse_call_of(p, n);
        } else {
            return n;
        }
    }
}

static Node *parse_one_filter(Parser *p, Node *of) {
    Node *n = node_new(p, NODE_FILTER);
    n->a = of;
    n->name = parser_expect_name(p);
    if (parser_at(p, "(")) n->args = parse_args(p);
    return n;
}

static bool at_test_argument(const Parser *p) {
    static const char *const NOT[] = {"else", "or", "and", "is"};
    if (parser_at(p, "[") || parser_at(p, "{")) return true;
    if (p->t->kind == TOKEN_STRING || p->t->kind == TOKEN_NUMBER) return true;
    for (size_t i = 0; i < COUNT_OF(NOT); i++)
        if (parser_at_name(p, NOT[i])) return false;
    return p->t->kind == TOKEN_NAME;
}

static Node *parse_test(Parser *p, Node *of) {
    parser_next(p);
    bool negated = parser_skip_name(p, "not");
    Node *n = node_new(p, NODE_TEST);
    n->a = of;
    n->name = parser_expect_name(p);
    if (parser_at(p, "(")) {
        n->args = parse_args(p);
    } else if (at_test_argument(p)) {
        n->args = run_take(p->r, sizeof *n->args);
        node_add(p, &n->args->at, parse_postfix(p, parse_primary(p)));
    } else if (parser_at_name(p, "is")) {
        parser_fail(p, "one test; two tests are joined with 'and'");
    }
    if (!negated) return n;
    Node *not_ = node_new(p, NODE_NOT);
    not_->a = n;
    return not_;
}

Node *parse_filters_only(Parser *p, Node *of) {
    Node *n = parse_one_filter(p, of);
    while (parser_skip(p, "|")) n = parse_one_filter(p, n);
    return n;
}

static Node *parse_filters(Parser *p, Node *n) {
    for (;;) {
        if (parser_skip(p, "|")) {
            n = parse_one_filter(p, n);
        } else if (parser_at_name(p, "is")) {
            n = parse_test(p, n);
        } else if (parser_at(p, "(")) {
            n = parse_call_of(p, n);
        } else {
            return n;
        }
    }
}

static Node *parse_unary(Parser *p, bool filters) {
    Node *n;
    parser_deeper(p);
    if (parser_at(p, "-") || parser_at(p, "+")) {
        n = node_new(p, parser_at(p, "-") ? NODE_NEGATE : NODE_PLUS);
        parser_next(p);
        n->a = parse_unary(p, false);
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    if (filters) n = parse_filters(p, n);
    p->depth--;
    return n;
}

/* The binary operators from loose to tight. */
static const char *const LEVELS[][5] = {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}};

static Node *parse_level(Parser *p, size_t level) {
    if (level == COUNT_OF(LEVELS)) return parse_unary(p, true);
    Node *left = parse_level(p, level + 1);
    for (;;) {
        const char *const *op = LEVELS[level];
        while (*op && !parser_at(p, *op)) op++;
        if (!*op) return left;
        Node *n = node_new(p, NODE_BINARY);
        n->name = str_of(*op);
        n->a = left;
        parser_next(p);
        n->b = parse_level(p, level + 1);
        left = n;
    }
}

static bool take_comparison(Parser *p, Str *op) {
    static const char *const OPS[] = {"==", "!=", "<", "<=", ">", ">="};
    for (size_t i = 0; i < COUNT_OF(OPS); i++)
        if (parser_skip(p, OPS[i])) {
            *op = str_of(OPS[i]);
            return true;
        }
    if (parser_skip_name(p, "in")) {
        *op = STR("in");
        return true;
    }
    const Token *ahead = p->t + (p->t->kind != TOKEN_END);
    if (!parser_at_name(p, "not") || ahead->kind != TOKEN_NAME || !str_is(ahead->text, "in"))
        return false;
    parser_next(p);
    parser_next(p);
    *op = STR("not in");
    return true;
}

static Node *parse_compare(Parser *p) {
    Node *left = parse_level(p, 0), *n = NULL;
    for (Str op; take_comparison(p, &op);) {
        if (!n) {
            n = node_new(p, NODE_COMPARE);
            n->a = left;
        }
        n->names = names_add(p, n->names, n->list.n, op);
        node_add(p, &n->list, parse_level(p, 0));
    }
    return n ? n : left;
}

static Node *parse_not(Parser *p) {
    if (!parser_at_name(p, "not")) return parse_compare(p);
    Node *n = node_new(p, NODE_NOT);
    parser_next(p);
    parser_deeper(p);
    n->a = parse_not(p);
    p->depth--;
    return n;
}

static Node *parse_joined(Parser *p, const char *word, NodeKind kind, Node *(*part)(Parser *)) {
    Node *left = part(p);
    while (parser_at_name(p, word)) {
        Node *n = node_new(p, kind);
        parser_next(p);
        n->a = left;
        n->b = part(p);
        left = n;
    }
    return left;
}
static Node *parse_and(Parser *p) { return parse_joined(p, "and", NODE_AND, parse_not); }
static Node *parse_or(Parser *p) { return parse_joined(p, "or", NODE_OR, parse_and); }

Node *parse_expression(Parser *p) {
    parser_deeper(p);
    Node *n = parse_or(p);
    while (parser_at_name(p, "if")) {
        Node *choice = node_new(p, NODE_CHOICE);
        parser_next(p);
        choice->a = n;
        choice->b = parse_or(p);
        choice->c = parser_skip_name(p, "else") ? parse_expression(p) : NULL;
        n = choice;
    }
    p->depth--;
    return n;
}

static bool at_tuple_end(const Parser *p) {
    return p->t->kind == TOKEN_PRINT_END || p->t->kind == TOKEN_BLOCK_END || parser_at(p, ")") ||
           parser_at_name(p, "recursive");
}

/* An expression, or several with commas. choice: may be `a if b else c`. */
Node *parse_tuple(Parser *p, bool choice) {
    Node *first = choice ? parse_expression(p) : parse_or(p);
    if (!parser_at(p, ",")) return first;
    Node *n = node_new(p, NODE_TUPLE);
    node_add(p, &n->list, first);
    while (parser_skip(p, ",")) {
        if (at_tuple_end(p)) break;
        node_add(p, &n->list, choice ? parse_expression(p) : parse_or(p));
    }
    return n;
}

static Node *parse_one_target(Parser *p, bool namespaces) {
    if (parser_skip(p, "(")) {
        Node *n = node_new(p, NODE_TUPLE);
        while (!parser_at(p, ")")) {
            if (n->list.n) parser_expect(p, ",");
            if (parser_at(p, ")")) break;
            parser_deeper(p);
            node_add(p, &n->list, parse_one_target(p, namespaces));
            p->depth--;
        }
        parser_next(p);
        return n->list.n == 1 ? n->list.at[0] : n;
    }
    Node *n = parse_name(p);
    if (n->kind != NODE_NAME)
        run_fail(p->r, "'%.*s' cannot be assigned to", (int)n->name.n, n->name.p);
    if (namespaces && parser_skip(p, ".")) {
        Node *member = node_new(p, NODE_ATTRIBUTE);
        member->a = n;
        member->name = parser_expect_name(p);
        return member;
    }
    return n;
}

Node *parse_target(Parser *p, bool namespaces) {
    Node *first = parse_one_target(p, namespaces);
    if (!parser_at(p, ",")) return first;
    Node *n = node_new(p, NODE_TUPLE);
    node_add(p, &n->list, first);
    while (parser_skip(p, ","))
        if (p->t->kind == TOKEN_NAME ? !parser_at_name(p, "in") : parser_at(p, "("))
            node_add(p, &n->list, parse_one_target(p, namespaces));
    return n;
}
