/* adapter_order.h - whether the columns of the experts' lora_B stand in PEFT's order. */
#ifndef ADAPTER_ORDER_H
#define ADAPTER_ORDER_H
#include "../data/weights.h"

/* What lora_B tensors show; all zero at first. Pairs of columns that would belong to the same
 * expert: fastest if the expert runs fastest (column j*E + e, PEFT's order), major if the rank does
 * (e*R + j); twins: neighbouring experts at the same rank, in PEFT's order. */
typedef struct OrderSigns {
    struct {
        double likeness; /* summed cosines, squared */
        int64_t pairs;
    } fastest, major, twins;
} OrderSigns;

/* Adds one tensor (O, R*E). Enough is enough: once there are many pairs it returns at once. */
void order_add(OrderSigns *s, const WeightView *b, int64_t E, int64_t R);
/* A trained B tells the orders apart, one that is random or still zero does not: then false. */
bool order_looks_expert_major(const OrderSigns *s);
#endif
