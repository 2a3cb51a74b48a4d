/* A small network without branches: its logits, and the gradient for its images.

   Images lie in blocks, and the numbers of a block's images at one place and channel lie side by side, so that every
   layer, however few channels it has, is sums of a weight times whole vectors. A layer is a list of links: which place
   of the layer before adds to a place of this one, by which tap of the kernel. The layer's way back for the gradient
   is such a list too. */

#include <stdint.h>

/* Channels whose sums stay in the registers of a processor with vectors of LANES numbers. */
#define TILE (LANES == 16 ? 8 : 4)
#define WIDE 2
#define BLOCK (WIDE * LANES)
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t flags __attribute__((vector_size(4 * LANES)));

/* Place p takes from the places source[e] by the taps tap[e] for first[p] <= e < first[p + 1]; weight is
   [taps][channels taken][channels made]; bias may be null. */
typedef struct {
    const int32_t *first, *source, *tap;
    const float *weight, *bias;
    int32_t places, taken, made, rectified;
} Layer;

/* sizes has, for the images and then for each layer, the numbers an image: `count` + 1 of them. */
typedef struct {
    const Layer *forth, *back;
    const int32_t *sizes;
    int32_t count, channels, pixels;
} Network;

/* Zero where the flag is set; what is not a number stays so. */
INLINE lanes zero_where(flags where, lanes value) { return (lanes)(~where & (flags)value); }

/* `count` channels from `channel` on of one place, for the first `wide` vectors of a block. Both are constants where
   this is called: the sums stay in registers. */
INLINE void tile(int count, int wide, const Layer *layer, const float *x, float *out, const float *gate, int place,
                 int channel) {
    lanes sum[TILE][WIDE];
    for (int i = 0; i < count; i++)
        for (int v = 0; v < wide; v++) sum[i][v] = (layer->bias ? layer->bias[channel + i] : 0.0f) + (lanes){0};
    for (int e = layer->first[place]; e < layer->first[place + 1]; e++) {
        const lanes *from = (const lanes *)(x + (int64_t)layer->source[e] * layer->taken * BLOCK);
        const float *weight = layer->weight + (int64_t)layer->tap[e] * layer->taken * layer->made + channel;
        for (int c = 0; c < layer->taken; c++, from += WIDE, weight += layer->made)
            for (int i = 0; i < count; i++)
                for (int v = 0; v < wide; v++) sum[i][v] += weight[i] * from[v];
    }
    int64_t start = ((int64_t)place * layer->made + channel) * BLOCK;
    for (int i = 0; i < count; i++)
        for (int v = 0; v < wide; v++) {
            lanes value = sum[i][v];
            int64_t at = start + i * BLOCK + v * LANES;
            if (layer->rectified) value = zero_where(value < 0.0f, value);
            if (gate) value = zero_where(*(const lanes *)(gate + at) <= 0.0f, value);
            *(lanes *)(out + at) = value;
        }
}

INLINE void apply(int wide, const Layer *layer, const float *x, float *out, const float *gate) {
    for (int place = 0; place < layer->places; place++) {
        int channel = 0;
        for (; channel + TILE <= layer->made; channel += TILE) tile(TILE, wide, layer, x, out, gate, place, channel);
        for (; channel + 2 <= layer->made; channel += 2) tile(2, wide, layer, x, out, gate, place, channel);
        if (channel < layer->made) tile(1, wide, layer, x, out, gate, place, channel);
    }
}

/* With a gate, an output is zero where the gate's number is not positive: the way back through a ReLU. */
static void apply_layer(int images, const Layer *layer, const float *x, float *out, const float *gate) {
    if (images > LANES) apply(WIDE, layer, x, out, gate);
    else apply(1, layer, x, out, gate);
}

/* [images][channels][pixels] to [pixels][channels][BLOCK], what is missing in the block as zeros, and back. */
static void pack(const float *x, float *out, int images, int channels, int pixels) {
    for (int n = 0; n < BLOCK; n++)
        for (int c = 0; c < channels; c++)
            for (int p = 0; p < pixels; p++)
                out[(p * channels + c) * BLOCK + n] = n < images ? x[((int64_t)n * channels + c) * pixels + p] : 0.0f;
}

static void unpack(const float *x, float *out, int images, int channels, int pixels) {
    for (int n = 0; n < images; n++)
        for (int c = 0; c < channels; c++)
            for (int p = 0; p < pixels; p++)
                out[((int64_t)n * channels + c) * pixels + p] = x[(p * channels + c) * BLOCK + n];
}

static int64_t numbers(const Network *network) {
    int64_t sum = 0;
    for (int k = 0; k <= network->count; k++) sum += network->sizes[k];
    return sum * BLOCK;
}

int fairbench_block(void) { return BLOCK; }

/* x [images][channels][pixels] to logits [images][classes]. `made` holds the images of a block and what each layer made
   of them, and has room for all blocks if they are to be kept. */
void fairbench_forward(const Network *network, const float *x, float *made, float *logits, int images, int keep) {
    const int *sizes = network->sizes, classes = sizes[network->count];
    int64_t step = keep ? numbers(network) : 0;
    for (; images > 0; images -= BLOCK, x += (int64_t)BLOCK * sizes[0], logits += (int64_t)BLOCK * classes, made += step) {
        int some = images < BLOCK ? images : BLOCK;
        float *here = made;
        pack(x, here, some, network->channels, network->pixels);
        for (int k = 0; k < network->count; k++) {
            float *next = here + (int64_t)sizes[k] * BLOCK;
            apply_layer(some, network->forth + k, here, next, 0);
            here = next;
        }
        unpack(here, logits, some, classes, 1);
    }
}

/* The gradient for x from that for the logits, and what the way forth made. `work` has room for twice the largest of
   the sizes, for one block. */
void fairbench_backward(const Network *network, const float *grad, const float *made, float *work, float *out,
                        int images) {
    const int *sizes = network->sizes, classes = sizes[network->count];
    int64_t step = numbers(network), room = 0;
    for (int k = 0; k <= network->count; k++) room = sizes[k] > room ? sizes[k] : room;
    for (; images > 0; images -= BLOCK, grad += (int64_t)BLOCK * classes, out += (int64_t)BLOCK * sizes[0], made += step) {
        int some = images < BLOCK ? images : BLOCK;
        const float *gate = made + step - (int64_t)classes * BLOCK;
        float *here = work, *next = work + room * BLOCK;
        pack(grad, here, some, classes, 1);
        for (int k = network->count - 1; k >= 0; k--) {
            gate -= (int64_t)sizes[k] * BLOCK;
            apply_layer(some, network->back + k, here, next, k > 0 && network->forth[k - 1].rectified ? gate : 0);
            float *swap = here;
            here = next;
            next = swap;
        }
        unpack(here, out, some, network->channels, network->pixels);
    }
}
