/* How a catalogue's scores are cut: the same for exact and for rounded products, since both fill the caller's buffers. */

#pragma once

#include "registers.h"

#define ITEMS (SUMS / 3) /* items by 3 registers of scores are summed at a time */
#define OUTS (SUMS / 4)  /* outputs by 4 registers of gradients */
#define PANEL 48         /* items whose scores stay in the first-level cache */
#define LONG 64          /* panels whose gradients are summed before they join the others, against rounding */
#define HIGH 30.0f       /* above its level a score raises it */
#define LN_2 0.69314718055994531
