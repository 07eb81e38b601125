/* test_adapter_forms.c - every form an adapter can take: trained, written, read back, written again
 * and merged. */
#include "trial.h"

/* ---- forms of adapters: trained, written, read back ---- */

static const struct Form {
    const char *name, *model, *key[4][2];
    bool sum; /* the file holds base + adapter of the routers: equal to rounding */
} forms[] = {
    {"plain", "moe", {{"router.train", "lora"}}, false},
    {"router-full", "moe", {{"router.train", "full"}}, false},
    {"router-scale", "moe", {{"router.train", "scale"}}, false},
    {"router-whole", "moe", {{"router.train", "full,scale,per_expert_scale"}}, false},
    {"router-rank", "moe", {{"router.train", "lora"}, {"router.lora_r", "5"}}, false},
    {"router-sum", "moe", {{"router.train", "lora,scale"}}, true},
    {"router-last",
     "moe",
     {{"router.train", "lora"}, {"router.layers", "last:2"}, {"layers_to_transform", "0,3"}},
     false},
    {"router-whole-one", "moe", {{"router.train", "full,scale"}, {"router.layers", "1"}}, false},
    {"only-router",
     "moe",
     {{"router.train", "lora"}, {"lora_target_modules", ""}, {"lora_target_parameters", ""}},
     false},
    {"gate-up-only",
     "moe",
     {{"lora_target_parameters", "experts.gate_up_proj"}, {"lora_target_modules", "q_proj"}},
     false},
    {"down-only", "moe", {{"lora_target_parameters", "experts.down_proj"}}, false},
    {"experts-only", "moe", {{"lora_target_modules", ""}}, false},
    {"experts-some", "moe", {{"lora_target_modules", ""}, {"layers_to_transform", "1,2"}}, false},
    {"rslora", "moe", {{"use_rslora", "true"}, {"router.train", "lora"}}, false},
    {"rslora-ranks",
     "moe",
     {{"use_rslora", "true"}, {"router.train", "lora"}, {"router.lora_r", "2"}},
     false},
    {"dropout", "moe", {{"lora_dropout", "0.2"}, {"lora_target_parameters", ""}}, false},
    {"dense-dropout", "dense", {{"lora_dropout", "0.2"}}, false},
    {"dense", "dense", {{"lora_target_modules", "all-linear"}}, false},
    {"dense-last", "dense", {{"layers_to_transform", "last:1"}}, false},
    {"ple", "ple", {{"lora_target_modules", "q_proj,k_proj,down_proj"}}, false},
};

static void check_form(const struct Form *f) {
    const char *dir = in(beside("form", f->name)), *again = in(beside("form-again", f->name));
    Settings s = settings("lora_r", "3", "lora_alpha", "5", "learning_rate", "0.05", "max_steps",
                          "2", "micro_batch_size", "3", "output_dir", dir, NULL);
    for (int i = 0, n = 12; i < 4 && f->key[i][0]; i++) {
        s.word[n++] = f->key[i][0];
        s.word[n++] = f->key[i][1];
    }
    Settings read = settings("lora_model_dir", dir, NULL);
    Trial *t = trial(f->model, USE_TO_TRAIN, &s);
    go(t);
    Logits trained = logits_of(t, 1), base = logits_from(f->model, NULL);
    assert_true(farthest(&trained, &base) > 1e-3); /* it did learn something */
    mem_free(base.p);
    if (f->sum)
        near_logits(trained, logits_from(f->model, &read), 2e-5, f->name);
    else
        same_logits(trained, logits_from(f->model, &read), true);
    end(t);
    Settings write = settings("lora_model_dir", dir, "output_dir", again, NULL);
    t = trial(f->model, USE_TO_TRAIN, &write);
    ok(files_make_dirs(again, &err));
    ok(adapter_write(again, t->s.model, &t->s.params, &t->s.plan, &t->s.adapter, &err));
    end(t);
    same_file(dir, again, "adapter_model.safetensors");
    same_file(dir, again, "adapter_config.json");
    same_file(dir, again, "moesmith.json");
    Settings same = s; /* the very config that trained it names the adapter it made */
    int n = 0;
    while (same.word[n]) n++;
    same.word[n] = "lora_model_dir", same.word[n + 1] = dir;
    end(trial(f->model, USE_AS_IS, &same));
    end(trial(f->model, USE_TO_TRAIN, &same));
}

static void test_forms_come_back(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        print_message("  %s\n", forms[i].name);
        check_form(&forms[i]);
    }
}

/* ---- keys beside lora_model_dir ---- */

static void test_keys_beside_adapter(void **state) {
    (void)state;
    static const struct {
        const char *key[2][2], *refused; /* part of the sentence; NULL: no contradiction */
    } cases[] = {
        {{{"lora_target_modules", "q_proj,v_proj"}}, NULL},
        {{{"lora_target_parameters", "experts.down_proj"}}, NULL},
        {{{"layers_to_transform", "1,2"}}, NULL},
        {{{"router.train", "lora"}}, NULL},
        {{{"router.layers", "last:2"}}, NULL},
        {{{"router.lora_r", "2"}}, NULL},
        {{{"lora_r", "16"}, {"lora_target_modules", "v_proj,q_proj"}}, NULL},
        {{{"lora_target_modules", "all-linear"}}, "lora_target_modules contradicts"},
        {{{"lora_target_modules", "q_proj"}}, "lora_target_modules contradicts"},
        {{{"lora_target_parameters", "experts.gate_up_proj"}},
         "lora_target_parameters contradicts"},
        {{{"layers_to_transform", "1,2,3"}}, "layers_to_transform contradicts"},
        {{{"layers_to_transform", "1"}}, "layers_to_transform contradicts"},
        {{{"router.train", "full"}}, "router.train contradicts"},
        {{{"router.train", ""}}, "router.train contradicts"},
        {{{"router.layers", "all"}}, "router.layers contradicts"},
        {{{"router.lora_r", "16"}}, "router.lora_r 16 contradicts"},
        {{{"lora_r", "8"}}, "lora_r 8 contradicts"},
        {{{"lora_dropout", "0.1"}}, "lora_dropout above 0"},
    };
    const char *dir = in("beside");
    Settings make = settings("lora_r", "16", "router.lora_r", "2", "router.train", "lora",
                             "router.layers", "last:2", "lora_target_modules", "q_proj,v_proj",
                             "lora_target_parameters", "experts.down_proj", "layers_to_transform",
                             "1,2", "max_steps", "1", "output_dir", dir, NULL);
    train("moe", &make);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *const(*k)[2] = cases[i].key;
        Settings s = settings("lora_model_dir", dir, k[0][0], k[0][1], k[1][0], k[1][1], NULL);
        Config cfg;
        Session session;
        load(&cfg, "moe", &s);
        int bad = session_open(&session, &cfg, USE_TO_TRAIN, &err);
        if (!bad) session_close(&session);
        if (!bad != !cases[i].refused || (bad && !strstr(err.text, cases[i].refused)))
            fail_msg("%s %s: %s", k[0][0], k[0][1], bad ? err.text : "accepted");
        ok(session_open(&session, &cfg, USE_AS_IS, &err)); /* it learns nothing: nothing clashes */
        session_close(&session);
        config_free(&cfg);
    }
}

static const char *const models[] = {"moe", "dense", "ple"};

static void test_merged_is_adapter(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        Settings s = settings("lora_model_dir",
                              beside(beside("tests/golden/models", models[i]), "adapter"), NULL);
        Trial *t = trial(models[i], USE_AS_IS, &s);
        const char *dir = in(beside("merged", models[i]));
        ok(files_make_dirs(dir, &err));
        ok(model_write_merged(dir, t->s.model, DT_COUNT, NULL, &err));
        Settings merged = settings("base_model", dir, NULL);
        near_logits(logits_of(t, 1), logits_from(models[i], &merged), 5e-5,
                    beside(models[i], "merged"));
        end(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_come_back),
        cmocka_unit_test(test_keys_beside_adapter),
        cmocka_unit_test(test_merged_is_adapter),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
