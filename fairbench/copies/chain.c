/* A small network: its logits, and the gradient with respect to its images.

   Images are processed in blocks. The values of a block's images at one place and channel are contiguous, so that every
   layer, even one of few channels, is a sum of weights times whole vectors. A layer is a list of links. A link names a
   place of the input, the place of the output that it contributes to, and the tap of the kernel between them. The
   backward pass of a layer is such a list as well.

   Tensor 0 is the normalised images, tensor k the output of layer k. */

#include <stdint.h>

/* The number of channels whose sums fit in the registers of a processor with vectors of LANES floats. */
#define TILE (LANES == 16 ? 8 : 4)
#define WIDE 2
#define BLOCK (WIDE * LANES)
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t flags __attribute__((vector_size(4 * LANES)));

/* Place p reads the places source[e] with the taps tap[e] for first[p] <= e < first[p + 1]; weight is
   [taps][input channels][output channels]; bias may be null. The layer reads tensor `read`, and adds tensor `added` to
   its output unless `added` is -1. In the backward pass, `again` and `added_again` say whether a later layer has already
   written to the gradients of these two tensors, so that this layer adds to them. */
typedef struct {
    const int32_t *first, *source, *tap;
    const float *weight, *bias;
    int32_t places, inputs, outputs, rectified, read, added, again, added_again;
} Layer;

/* starts has `count` + 2 numbers: for the images and each layer the offset of its values in a block, in vectors of BLOCK
   floats, and the end of the last. scale and shift [channels][pixels] are the normalisation, or null. */
typedef struct {
    const Layer *forward, *backward;
    const int32_t *starts;
    const float *scale, *shift;
    int32_t count, channels, pixels;
} Network;

/* Zero where the flag is set; NaN stays NaN elsewhere. */
INLINE lanes zero_where(flags where, lanes value) { return (lanes)(~where & (flags)value); }

/* `count` channels of one place, starting at `channel`, for the first `wide` vectors of a block. Callers pass constants
   for both, so that the sums stay in registers. */
INLINE void tile(int count, int wide, const Layer *layer, const float *x, float *out, const float *plus,
                 const float *gate, int place, int channel) {
    lanes sum[TILE][WIDE];
    for (int i = 0; i < count; i++)
        for (int v = 0; v < wide; v++) sum[i][v] = (layer->bias ? layer->bias[channel + i] : 0.0f) + (lanes){0};
    for (int e = layer->first[place]; e < layer->first[place + 1]; e++) {
        const lanes *from = (const lanes *)(x + (int64_t)layer->source[e] * layer->inputs * BLOCK);
        const float *weight = layer->weight + (int64_t)layer->tap[e] * layer->inputs * layer->outputs + channel;
        for (int c = 0; c < layer->inputs; c++, from += WIDE, weight += layer->outputs)
            for (int i = 0; i < count; i++)
                for (int v = 0; v < wide; v++) sum[i][v] += weight[i] * from[v];
    }
    int64_t start = ((int64_t)place * layer->outputs + channel) * BLOCK;
    for (int i = 0; i < count; i++)
        for (int v = 0; v < wide; v++) {
            lanes value = sum[i][v];
            int64_t at = start + i * BLOCK + v * LANES;
            if (plus && !gate) value += *(const lanes *)(plus + at);
            if (layer->rectified) value = zero_where(value < 0.0f, value);
            if (gate) value = zero_where(*(const lanes *)(gate + at) <= 0.0f, value);
            if (plus && gate) value += *(const lanes *)(plus + at);
            *(lanes *)(out + at) = value;
        }
}

INLINE void apply(int wide, const Layer *layer, const float *x, float *out, const float *plus, const float *gate) {
    for (int place = 0; place < layer->places; place++) {
        int channel = 0;
        for (; channel + TILE <= layer->outputs; channel += TILE)
            tile(TILE, wide, layer, x, out, plus, gate, place, channel);
        if (channel + 4 <= layer->outputs) {
            tile(4, wide, layer, x, out, plus, gate, place, channel);
            channel += 4;
        }
        if (channel + 3 == layer->outputs) tile(3, wide, layer, x, out, plus, gate, place, channel);
        if (channel + 2 == layer->outputs) tile(2, wide, layer, x, out, plus, gate, place, channel);
        if (channel + 1 == layer->outputs) tile(1, wide, layer, x, out, plus, gate, place, channel);
    }
}

/* Adds `plus` unless it is null. With a gate, which is the backward pass of a ReLU, the layer's own result is zero where
   the gate is not positive. */
static void apply_layer(int images, const Layer *layer, const float *x, float *out, const float *plus,
                        const float *gate) {
    if (images > LANES) apply(WIDE, layer, x, out, plus, gate);
    else apply(1, layer, x, out, plus, gate);
}

/* The gradient of a tensor that the layer added to its output. */
static void pass_on(const float *grad, float *out, const float *gate, int64_t numbers, int again) {
    for (int64_t i = 0; i < numbers * BLOCK; i++) {
        float value = gate && gate[i] <= 0.0f ? 0.0f : grad[i];
        out[i] = again ? out[i] + value : value;
    }
}

/* Pixels copied at once: a few cache lines of source and target. */
#define RUN 16

/* From [images][channels][pixels] to [pixels][channels][BLOCK], times scale plus shift unless they are null; missing
   images are zeros. */
static void pack(const float *x, float *out, int images, int channels, int pixels, const float *scale,
                 const float *shift) {
    for (int c = 0; c < channels; c++)
        for (int first = 0; first < pixels; first += RUN)
            for (int n = 0; n < BLOCK; n++)
                for (int p = first; p < pixels && p < first + RUN; p++) {
                    int at = c * pixels + p;
                    float value = n < images ? x[(int64_t)n * channels * pixels + at] : 0.0f;
                    out[(p * channels + c) * BLOCK + n] = scale ? value * scale[at] + shift[at] : value;
                }
}

/* From such a block to [images][channels][pixels], times scale unless it is null. */
static void unpack(const float *x, float *out, int images, int channels, int pixels, const float *scale) {
    for (int c = 0; c < channels; c++)
        for (int first = 0; first < pixels; first += RUN)
            for (int n = 0; n < images; n++)
                for (int p = first; p < pixels && p < first + RUN; p++) {
                    int at = c * pixels + p;
                    float value = x[(p * channels + c) * BLOCK + n];
                    out[(int64_t)n * channels * pixels + at] = scale ? value * scale[at] : value;
                }
}

int fairbench_block(void) { return BLOCK; }

/* From x [images][channels][pixels] to logits [images][classes]. `values` has room for the tensors of one block, or of
   all blocks with `keep`. */
void fairbench_forward(const Network *network, const float *x, float *values, float *logits, int images, int keep) {
    const int32_t *starts = network->starts;
    int count = network->count, classes = starts[count + 1] - starts[count];
    int64_t step = (int64_t)starts[count + 1] * BLOCK;
    for (; images > 0; images -= BLOCK, values += keep ? step : 0) {
        int some = images < BLOCK ? images : BLOCK;
        pack(x, values, some, network->channels, network->pixels, network->scale, network->shift);
        for (int k = 0; k < count; k++) {
            const Layer *layer = network->forward + k;
            const float *plus = layer->added < 0 ? 0 : values + (int64_t)starts[layer->added] * BLOCK;
            float *out = values + (int64_t)starts[k + 1] * BLOCK;
            apply_layer(some, layer, values + (int64_t)starts[layer->read] * BLOCK, out, plus, 0);
        }
        unpack(values + (int64_t)starts[count] * BLOCK, logits, some, classes, 1, 0);
        x += (int64_t)BLOCK * starts[1];
        logits += (int64_t)BLOCK * classes;
    }
}

/* The output of a tensor's layer if the layer has a ReLU, whose gradient passes where this is positive; else null. */
static const float *gate_of(const Network *network, int tensor, const float *values) {
    int rectified = tensor > 0 && network->forward[tensor - 1].rectified;
    return rectified ? values + (int64_t)network->starts[tensor] * BLOCK : 0;
}

/* The gradient for x, from the gradient for the logits and the tensors of the forward pass. `work` has room for the
   tensors of one block. */
void fairbench_backward(const Network *network, const float *grad, const float *values, float *work, float *out,
                        int images) {
    const int32_t *starts = network->starts;
    int count = network->count, classes = starts[count + 1] - starts[count];
    int64_t step = (int64_t)starts[count + 1] * BLOCK;
    for (; images > 0; images -= BLOCK, values += step) {
        int some = images < BLOCK ? images : BLOCK;
        pack(grad, work + (int64_t)starts[count] * BLOCK, some, classes, 1, 0, 0);
        for (int k = count - 1; k >= 0; k--) {
            const Layer *layer = network->backward + k;
            const float *here = work + (int64_t)starts[k + 1] * BLOCK;
            float *to = work + (int64_t)starts[layer->read] * BLOCK;
            apply_layer(some, layer, here, to, layer->again ? to : 0, gate_of(network, layer->read, values));
            if (layer->added >= 0)
                pass_on(here, work + (int64_t)starts[layer->added] * BLOCK, gate_of(network, layer->added, values),
                        starts[k + 2] - starts[k + 1], layer->added_again);
        }
        unpack(work, out, some, network->channels, network->pixels, network->scale);
        grad += (int64_t)BLOCK * classes;
        out += (int64_t)BLOCK * starts[1];
    }
}
