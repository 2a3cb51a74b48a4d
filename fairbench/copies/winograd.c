/* F(4x4, 3x3): tiles of 6 x 6 numbers of images to their values at 6 x 6 pairs of points, and products at these points
   to 4 x 4 outputs. Images are [count][height][width][channels], points [36][tiles][channels]. */

#include <stdint.h>
#include <string.h>

#define TAKEN 6
#define MADE 4
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t flags __attribute__((vector_size(4 * LANES)));

typedef struct {
    int32_t count, height, width, channels;
    float a, b;
} Shape;

INLINE int tiles(int side) { return (side + MADE - 1) / MADE; }

/* The last channels may fill a vector in part. */
INLINE lanes load(const float *from, int channels) {
    lanes value = {0};
    if (channels >= LANES) memcpy(&value, from, sizeof value);
    else memcpy(&value, from, 4 * (unsigned)channels);
    return value;
}

INLINE void store(float *to, lanes value, int channels) {
    if (channels >= LANES) memcpy(to, &value, sizeof value);
    else memcpy(to, &value, 4 * (unsigned)channels);
}

/* Six values that follow each other at six points: the paper's transposed B. */
INLINE void at_points(const lanes d[TAKEN], lanes out[TAKEN], float a, float b) {
    float aa = a * a, bb = b * b;
    lanes odd = d[3] - bb * d[1], even = d[4] - bb * d[2], odd_far = d[3] - aa * d[1], even_far = d[4] - aa * d[2];
    out[0] = d[4] - (aa + bb) * d[2] + aa * bb * d[0];
    out[1] = even + a * odd;
    out[2] = even - a * odd;
    out[3] = even_far + b * odd_far;
    out[4] = even_far - b * odd_far;
    out[5] = d[5] - (aa + bb) * d[3] + aa * bb * d[1];
}

/* Four outputs of the products at six points: the paper's transposed A, its columns over the point's square. */
INLINE void from_points(const lanes m[TAKEN], lanes out[MADE], float a, float b) {
    lanes even = m[1] + m[2], odd = m[1] - m[2], even_far = m[3] + m[4], odd_far = m[3] - m[4];
    out[0] = m[0] + 1.0f / (a * a) * even + 1.0f / (b * b) * even_far;
    out[1] = 1.0f / a * odd + 1.0f / b * odd_far;
    out[2] = even + even_far;
    out[3] = m[5] + a * odd + b * odd_far;
}

/* Outside of the images are zeros. */
void fairbench_points(const Shape *shape, const float *x, float *points) {
    int height = shape->height, width = shape->width, channels = shape->channels;
    int down = tiles(height), across = tiles(width);
    int64_t apart = (int64_t)shape->count * down * across * channels;
    for (int n = 0; n < shape->count; n++, x += (int64_t)height * width * channels)
        for (int row = 0; row < down; row++)
            for (int column = 0; column < across; column++, points += channels)
                for (int c = 0; c < channels; c += LANES) {
                    lanes half[TAKEN][TAKEN], column_of[TAKEN], made[TAKEN];
                    for (int j = 0; j < TAKEN; j++) {
                        int x_at = MADE * column + j - 1;
                        for (int i = 0; i < TAKEN; i++) {
                            int y_at = MADE * row + i - 1;
                            int inside = y_at >= 0 && y_at < height && x_at >= 0 && x_at < width;
                            const float *from = x + ((int64_t)y_at * width + x_at) * channels + c;
                            column_of[i] = inside ? load(from, channels - c) : (lanes){0};
                        }
                        at_points(column_of, made, shape->a, shape->b);
                        for (int i = 0; i < TAKEN; i++) half[i][j] = made[i];
                    }
                    for (int i = 0; i < TAKEN; i++) {
                        at_points(half[i], made, shape->a, shape->b);
                        for (int j = 0; j < TAKEN; j++)
                            store(points + (i * TAKEN + j) * apart + c, made[j], channels - c);
                    }
                }
}

/* bias may be null; what a tile makes beyond the image is dropped. */
void fairbench_outputs(const Shape *shape, const float *products, const float *bias, int rectified, float *out) {
    int height = shape->height, width = shape->width, channels = shape->channels;
    int down = tiles(height), across = tiles(width);
    int64_t apart = (int64_t)shape->count * down * across * channels;
    for (int n = 0; n < shape->count; n++, out += (int64_t)height * width * channels)
        for (int row = 0; row < down; row++)
            for (int column = 0; column < across; column++, products += channels)
                for (int c = 0; c < channels; c += LANES) {
                    lanes half[MADE][TAKEN], six[TAKEN], made[MADE];
                    for (int j = 0; j < TAKEN; j++) {
                        for (int i = 0; i < TAKEN; i++)
                            six[i] = load(products + (i * TAKEN + j) * apart + c, channels - c);
                        from_points(six, made, shape->a, shape->b);
                        for (int i = 0; i < MADE; i++) half[i][j] = made[i];
                    }
                    lanes shift = bias ? load(bias + c, channels - c) : (lanes){0};
                    for (int i = 0; i < MADE && MADE * row + i < height; i++) {
                        from_points(half[i], made, shape->a, shape->b);
                        for (int j = 0; j < MADE && MADE * column + j < width; j++) {
                            lanes value = made[j] + shift;
                            if (rectified) value = (lanes)(~(value < 0.0f) & (flags)value);
                            float *to = out + (((int64_t)MADE * row + i) * width + MADE * column + j) * channels + c;
                            store(to, value, channels - c);
                        }
                    }
                }
}
