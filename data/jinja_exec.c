/* jinja_exec.c - statements: one function per kind of node; macros and loops. */
#include "jinja_eval.h"

static void exec_block(Run *r, const Node *n) {
    for (size_t i = 0; i < n->list.n && r->flow == FLOW_ON; i++) exec(r, n->list.at[i]);
}

static void exec_print(Run *r, const Node *n) {
    if (n->a->kind == NODE_CONST) {
        value_write(r, r->out, n->a->value);
    } else {
        value_write(r, r->out, eval(r, n->a));
    }
}

static void exec_if(Run *r, const Node *n) {
    for (; n && n->kind == NODE_IF; n = n->c)
        if (value_truth(eval(r, n->a))) {
            exec(r, n->b);
            return;
        }
    if (n) exec(r, n);
}

static void assign_tuple(Run *r, const Node *target, Value v) {
    const List *l = value_items(r, v);
    if (l->n != target->list.n)
        run_fail(r, "%s values to unpack (expected %zu, got %zu)",
                 l->n < target->list.n ? "not enough" : "too many", target->list.n, l->n);
    for (size_t i = 0; i < l->n; i++) exec_assign(r, target->list.at[i], l->at[i]);
}

void exec_assign(Run *r, const Node *target, Value v) {
    r->line = target->line;
    if (target->kind == NODE_TUPLE) {
        assign_tuple(r, target, v);
    } else if (target->kind == NODE_ATTRIBUTE) {
        Value of = eval(r, target->a);
        if (of.kind != IS_NAMESPACE)
            run_fail(r, "cannot assign attribute '%.*s' on an object that is no namespace",
                     (int)target->name.n, target->name.p);
        if (target->name.p[0] == '_')
            run_fail(r, "a namespace takes no attribute that begins with an underscore: '%.*s'",
                     (int)target->name.n, target->name.p);
        dict_set(r, of.dict, value_str(target->name), v);
    } else {
        scope_set(r, r->scope, target->name, v);
    }
}

static void exec_set(Run *r, const Node *n) { exec_assign(r, n->a, eval(r, n->b)); }

Str exec_capture(Run *r, const Node *n, Scope *parent) {
    Text *out = r->out;
    Scope *scope = r->scope;
    Text t = {0};
    r->out = &t;
    r->scope = scope_new(r, parent);
    exec(r, n);
    r->out = out;
    r->scope = scope;
    return text_str(&t);
}

/* The captured text of body through the filters (NULL: none). */
static Value capture_filtered(Run *r, const Node *body, const Node *filters) {
    Value text = value_str(exec_capture(r, body, r->scope)), was = r->captured;
    if (!filters || r->flow != FLOW_ON) return text;
    r->captured = text;
    text = eval(r, filters);
    r->captured = was;
    return text;
}

static void exec_set_block(Run *r, const Node *n) {
    Value v = capture_filtered(r, n->b, n->c);
    if (r->flow == FLOW_ON) exec_assign(r, n->a, v);
}

static void exec_filter_block(Run *r, const Node *n) {
    Value v = capture_filtered(r, n->b, n->a);
    if (r->flow == FLOW_ON) value_write(r, r->out, v);
}

static void exec_scope(Run *r, const Node *n) {
    Scope *was = r->scope;
    r->scope = scope_new(r, was);
    exec(r, n->a);
    r->scope = was;
}

static void exec_with(Run *r, const Node *n) {
    Scope *was = r->scope, *inner = scope_new(r, was);
    for (size_t i = 0; i < n->list.n; i += 2) { /* the values are those of the scope around */
        Value v = eval(r, n->list.at[i + 1]);
        r->scope = inner;
        exec_assign(r, n->list.at[i], v);
        r->scope = was;
    }
    r->scope = inner;
    exec(r, n->a);
    r->scope = was;
}

static Value macro_value(Run *r, const Node *n) {
    Macro *m = run_take(r, sizeof *m);
    *m = (Macro){n, r->scope};
    for (Scope *s = r->scope; s; s = s->parent) s->kept = true;
    return (Value){.kind = IS_MACRO, .macro = m};
}

static void exec_macro_definition(Run *r, const Node *n) {
    scope_set(r, r->scope, n->name, macro_value(r, n));
}

static void exec_call_block(Run *r, const Node *n) {
    Value caller = macro_value(r, n->b);
    Value f = eval(r, n->a->a);
    Args args = eval_args(r, n->a->args, &caller);
    r->line = n->line;
    if (f.kind != IS_MACRO) run_fail(r, "a call block wants a macro, not %s", value_type(f));
    value_write(r, r->out, exec_macro(r, f.macro, &args));
}

static const Value *find_named(const Args *args, Str name) {
    for (size_t i = 0; i < args->n_keys; i++)
        if (str_equal(args->key[i], name)) return &args->value[i];
    return NULL;
}

static bool has_param(const Params *params, Str name) {
    for (size_t i = 0; i < params->n; i++)
        if (str_equal(params->name[i], name)) return true;
    return false;
}

/* The parameters' values, in the macro's own scope, where defaults are evaluated too. */
static void bind_params(Run *r, const Params *params, const Args *args) {
    for (size_t i = 0; i < params->n; i++) {
        Str name = params->name[i];
        const Value *named = find_named(args, name);
        Value v;
        if (i < args->n && named)
            run_fail(r, "got multiple values for the argument '%.*s'", (int)name.n, name.p);
        if (i < args->n) {
            v = args->at[i];
        } else if (named) {
            v = *named;
        } else if (params->fallback[i]) {
            v = eval(r, params->fallback[i]);
        } else {
            v = value_undefined(r, "a parameter of a macro was not provided");
        }
        scope_set(r, r->scope, name, v);
    }
}

/* What the parameters did not take: varargs, kwargs and caller, where the body reads them. */
static void bind_rest(Run *r, const Macro *m, const Args *args) {
    const Params *params = m->node->params;
    Str name = m->node->name;
    List *rest = list_new(r, 0);
    Dict *named = dict_new(r);
    bool takes_caller = params->takes_caller && !has_param(params, STR("caller"));
    for (size_t i = params->n; i < args->n; i++) list_add(r, rest, args->at[i]);
    if (rest->n && !params->takes_rest)
        run_fail(r, "macro '%.*s' takes not more than %zu arguments", (int)name.n, name.p,
                 params->n);
    if (takes_caller) {
        const Value *caller = find_named(args, STR("caller"));
        scope_set(r, r->scope, STR("caller"),
                  caller ? *caller : value_undefined(r, "No caller defined"));
    }
    for (size_t i = 0; i < args->n_keys; i++) {
        Str key = args->key[i];
        if (has_param(params, key) || (takes_caller && str_is(key, "caller"))) continue;
        if (!params->takes_named)
            run_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", (int)name.n, name.p,
                     (int)key.n, key.p);
        dict_set(r, named, value_str(key), args->value[i]);
    }
    if (params->takes_named)
        scope_set(r, r->scope, STR("kwargs"), (Value){.kind = IS_DICT, .dict = named});
    if (params->takes_rest) scope_set(r, r->scope, STR("varargs"), value_list(IS_TUPLE, rest));
}

Value exec_macro(Run *r, const Macro *m, const Args *args) {
    Scope *was = r->scope;
    int line = r->line;
    run_deeper(r);
    r->scope = scope_new(r, m->scope);
    bind_params(r, m->node->params, args);
    bind_rest(r, m, args);
    Str text = exec_capture(r, m->node->a, r->scope);
    r->scope = was;
    r->line = line;
    r->depth--;
    return value_str(text);
}

/* The items of a loop that pass its filter. */
static const List *loop_items(Run *r, const Node *n, Value over) {
    const List *all = value_items(r, over);
    if (!n->c) return all;
    List *kept = list_new(r, 0);
    Scope *was = r->scope;
    for (size_t i = 0; i < all->n; i++) {
        r->scope = scope_new(r, was);
        exec_assign(r, n->a, all->at[i]);
        if (value_truth(eval(r, n->c))) list_add(r, kept, all->at[i]);
        r->scope = was;
    }
    return kept;
}

static void run_loop(Run *r, const Node *n, Value over, int depth) {
    Scope *was = r->scope, *turn = scope_new(r, was);
    Loop *loop = run_take(r, sizeof *loop);
    *loop = (Loop){.items = loop_items(r, n, over), .depth = depth, .node = n, .scope = was};
    for (; loop->index < loop->items->n; loop->index++) {
        run_step(r, 1);
        if (turn->kept) turn = scope_new(r, was);
        turn->n = 0; /* what one turn sets, the next does not see */
        r->scope = turn;
        scope_set(r, r->scope, STR("loop"), (Value){.kind = IS_LOOP, .loop = loop});
        exec_assign(r, n->a, loop->items->at[loop->index]);
        exec(r, n->list.at[0]);
        bool stop = r->flow == FLOW_BREAK;
        r->flow = FLOW_ON;
        if (stop) break;
    }
    if (loop->items->n == 0 && n->list.at[1]) {
        r->scope = scope_new(r, was);
        exec(r, n->list.at[1]);
    }
    r->scope = was;
}

static void exec_for(Run *r, const Node *n) { run_loop(r, n, eval(r, n->b), 0); }

Value exec_recursive_loop(Run *r, const Loop *loop, Value items) {
    if (!loop->node->recursive)
        run_fail(r, "the loop must have the 'recursive' marker to be called");
    Text *out = r->out;
    Scope *scope = r->scope;
    Text t = {0};
    r->out = &t;
    r->scope = loop->scope;
    run_loop(r, loop->node, items, loop->depth + 1);
    r->out = out;
    r->scope = scope;
    return value_text(&t);
}

static void exec_break(Run *r, const Node *n) { (void)n, r->flow = FLOW_BREAK; }
static void exec_continue(Run *r, const Node *n) { (void)n, r->flow = FLOW_CONTINUE; }

void exec(Run *r, const Node *n) {
    static void (*const EXEC[N_NODES])(Run *, const Node *) = {
        [NODE_BLOCK] = exec_block,
        [NODE_PRINT] = exec_print,
        [NODE_IF] = exec_if,
        [NODE_FOR] = exec_for,
        [NODE_SET] = exec_set,
        [NODE_SET_BLOCK] = exec_set_block,
        [NODE_MACRO] = exec_macro_definition,
        [NODE_CALL_BLOCK] = exec_call_block,
        [NODE_FILTER_BLOCK] = exec_filter_block,
        [NODE_WITH] = exec_with,
        [NODE_SCOPE] = exec_scope,
        [NODE_BREAK] = exec_break,
        [NODE_CONTINUE] = exec_continue,
    };
    r->line = n->line;
    run_step(r, 1);
    run_deeper(r);
    EXEC[n->kind](r, n);
    r->depth--;
}
