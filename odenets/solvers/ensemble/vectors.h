// Vectors of N trajectories' numbers: Real (the state's precision), Time (double) and Mask, with the operations that a
// fragment is written in. `real` is float or double; every operation exists for one trajectory's plain numbers too.

// Plain C headers only: reading C++'s takes longer than compiling a program.
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

typedef double Doubles __attribute__((vector_size(BYTES), may_alias));
typedef float Floats __attribute__((vector_size(BYTES), may_alias));
typedef int64_t Longs __attribute__((vector_size(BYTES), may_alias));
typedef int32_t Ints __attribute__((vector_size(BYTES), may_alias));
typedef int32_t HalfInts __attribute__((vector_size(BYTES / 2), may_alias));
typedef float HalfFloats __attribute__((vector_size(BYTES / 2), may_alias));

// One trajectory

template <class T> INLINE T sel(bool m, T a, T b) { return m ? a : b; }
INLINE double fabs_(double x) { return __builtin_fabs(x); }
INLINE float fabs_(float x) { return __builtin_fabsf(x); }
INLINE double larger(double a, double b) { return (a > b) | (a != a) ? a : b; }  // NaN in either operand stays
INLINE float larger(float a, float b) { return (a > b) | (a != a) ? a : b; }
INLINE double smaller(double a, double b) { return (a < b) | (a != a) ? a : b; }
INLINE float smaller(float a, float b) { return (a < b) | (a != a) ? a : b; }
INLINE bool invert(bool m) { return !m; }

// Vectors

INLINE Doubles sel(Longs m, Doubles a, Doubles b) { return m ? a : b; }
INLINE Floats sel(Ints m, Floats a, Floats b) { return m ? a : b; }
INLINE Longs invert(Longs m) { return ~m; }
INLINE Ints invert(Ints m) { return ~m; }
INLINE Doubles fabs_(Doubles x) { return (Doubles)((Longs)x & INT64_MAX); }
INLINE Floats fabs_(Floats x) { return (Floats)((Ints)x & INT32_MAX); }
#define ORDER(V)                                                                \
  INLINE V larger(V a, V b) { return sel((a > b) | (a != a), a, b); }           \
  INLINE V smaller(V a, V b) { return sel((a < b) | (a != a), a, b); }
ORDER(Doubles) ORDER(Floats)

// Functions: vectors by glibc's libmvec where it has them, else number by number

INLINE double pow_(double x, double y) { return pow(x, y); }
INLINE float pow_(float x, float y) { return powf(x, y); }
INLINE double atan2_(double y, double x) { return atan2(y, x); }
INLINE float atan2_(float y, float x) { return atan2f(y, x); }
#define BY_NUMBER(name, V)                                                      \
  INLINE V name##_(V x) {                                                       \
    V r;                                                                        \
    for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i) r[i] = name##_(x[i]); \
    return r;                                                                   \
  }
#define PLAIN(name)                                                             \
  INLINE double name##_(double x) { return name(x); }                      \
  INLINE float name##_(float x) { return name##f(x); }
#define NUMBERS(name) PLAIN(name) BY_NUMBER(name, Doubles) BY_NUMBER(name, Floats)
#if defined(__x86_64__) && defined(__GLIBC__)
#if BYTES == 64
#define LIBRARY_DOUBLE(v, name) _ZGVeN8##v##_##name
#define LIBRARY_FLOAT(v, name) _ZGVeN16##v##_##name##f
#elif BYTES == 32 && defined(__AVX2__)
#define LIBRARY_DOUBLE(v, name) _ZGVdN4##v##_##name
#define LIBRARY_FLOAT(v, name) _ZGVdN8##v##_##name##f
#elif BYTES == 16
#define LIBRARY_DOUBLE(v, name) _ZGVbN2##v##_##name
#define LIBRARY_FLOAT(v, name) _ZGVbN4##v##_##name##f
#endif
#endif
#ifdef LIBRARY_DOUBLE
#define FUNCTION(name)                                                          \
  extern "C" Doubles LIBRARY_DOUBLE(v, name)(Doubles);                          \
  extern "C" Floats LIBRARY_FLOAT(v, name)(Floats);                             \
  PLAIN(name)                                                                   \
  INLINE Doubles name##_(Doubles x) { return LIBRARY_DOUBLE(v, name)(x); }      \
  INLINE Floats name##_(Floats x) { return LIBRARY_FLOAT(v, name)(x); }
extern "C" Doubles LIBRARY_DOUBLE(vv, pow)(Doubles, Doubles);
extern "C" Floats LIBRARY_FLOAT(vv, pow)(Floats, Floats);
INLINE Doubles pow_(Doubles x, Doubles y) { return LIBRARY_DOUBLE(vv, pow)(x, y); }
INLINE Floats pow_(Floats x, Floats y) { return LIBRARY_FLOAT(vv, pow)(x, y); }
#if __GLIBC_PREREQ(2, 35)
#define NEWER_FUNCTION FUNCTION
#else
#define NEWER_FUNCTION NUMBERS
#endif
#else
#define FUNCTION NUMBERS
#define NEWER_FUNCTION NUMBERS
#define BY_PAIRS(V)                                                             \
  INLINE V pow_(V x, V y) {                                                     \
    V r;                                                                        \
    for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i) r[i] = pow_(x[i], y[i]); \
    return r;                                                                   \
  }
BY_PAIRS(Doubles) BY_PAIRS(Floats)
#endif
FUNCTION(exp) FUNCTION(log) FUNCTION(sin) FUNCTION(cos)
NEWER_FUNCTION(tan) NEWER_FUNCTION(asin) NEWER_FUNCTION(acos) NEWER_FUNCTION(atan) NEWER_FUNCTION(sinh)
NEWER_FUNCTION(cosh) NEWER_FUNCTION(tanh) NEWER_FUNCTION(expm1) NEWER_FUNCTION(log1p) NEWER_FUNCTION(erf)
NUMBERS(floor) NUMBERS(ceil)
NUMBERS(sqrt)
#define ATAN2(V)                                                                \
  INLINE V atan2_(V y, V x) {                                                   \
    V r;                                                                        \
    for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i) r[i] = atan2_(y[i], x[i]); \
    return r;                                                                   \
  }
ATAN2(Doubles) ATAN2(Floats)

// Times beside single-precision states: twice as wide, so in two halves

struct Halves {
  Doubles a, b;
};
#define HALVES_BY(op)                                                           \
  INLINE Halves operator op(Halves x, Halves y) { return {x.a op y.a, x.b op y.b}; }
HALVES_BY(+) HALVES_BY(-) HALVES_BY(*) HALVES_BY(/)
INLINE Halves operator-(Halves x) { return {-x.a, -x.b}; }
INLINE Ints joined(Longs a, Longs b) {
  HalfInts halves[2] = {__builtin_convertvector(a, HalfInts), __builtin_convertvector(b, HalfInts)};
  Ints m;
  memcpy(&m, halves, sizeof(m));
  return m;
}
#define HALVES_COMPARED(op)                                                     \
  INLINE Ints operator op(Halves x, Halves y) { return joined(x.a op y.a, x.b op y.b); }
HALVES_COMPARED(<) HALVES_COMPARED(<=) HALVES_COMPARED(>) HALVES_COMPARED(>=) HALVES_COMPARED(==) HALVES_COMPARED(!=)
INLINE Halves sel(Ints m, Halves x, Halves y) {
  HalfInts halves[2];
  memcpy(halves, &m, sizeof(m));
  return {sel(__builtin_convertvector(halves[0], Longs), x.a, y.a), sel(__builtin_convertvector(halves[1], Longs), x.b, y.b)};
}
INLINE Halves larger(Halves x, Halves y) { return {larger(x.a, y.a), larger(x.b, y.b)}; }
INLINE Halves smaller(Halves x, Halves y) { return {smaller(x.a, y.a), smaller(x.b, y.b)}; }
INLINE Halves fabs_(Halves x) { return {fabs_(x.a), fabs_(x.b)}; }

INLINE bool any(Longs m) {
  int64_t found = 0;
  for (unsigned i = 0; i < sizeof(m) / sizeof(m[0]); ++i) found |= m[i];
  return found;
}
INLINE bool any(Ints m) { return any((Longs)m); }

// Kinds by precision

template <class real> struct Kinds;
template <> struct Kinds<double> {
  typedef Doubles Real;
  typedef Doubles Time;
  typedef Longs Mask;
};
template <> struct Kinds<float> {
  typedef Floats Real;
  typedef Halves Time;
  typedef Ints Mask;
};

INLINE Doubles widened(Doubles x) { return x; }
INLINE Doubles narrowed(Doubles x) { return x; }
INLINE Halves widened(Floats x) {
  HalfFloats halves[2];
  memcpy(halves, &x, sizeof(x));
  return {__builtin_convertvector(halves[0], Doubles), __builtin_convertvector(halves[1], Doubles)};
}
INLINE Floats narrowed(Halves x) {
  HalfFloats halves[2] = {__builtin_convertvector(x.a, HalfFloats), __builtin_convertvector(x.b, HalfFloats)};
  Floats r;
  memcpy(&r, halves, sizeof(r));
  return r;
}
// Vectors from and to memory

template <class V> struct Of;
template <> struct Of<Doubles> {
  INLINE Doubles all(double x) { return Doubles{} + x; }
  INLINE Doubles load(const double *p) { return *(const Doubles *)p; }
  INLINE void store(double *p, Doubles x) { *(Doubles *)p = x; }
};
template <> struct Of<Floats> {
  INLINE Floats all(double x) { return Floats{} + (float)x; }
  INLINE Floats load(const float *p) { return *(const Floats *)p; }
  INLINE void store(float *p, Floats x) { *(Floats *)p = x; }
};
template <> struct Of<Halves> {
  INLINE Halves all(double x) { return {Doubles{} + x, Doubles{} + x}; }
  INLINE Halves load(const double *p) { return {*(const Doubles *)p, *(const Doubles *)(p + BYTES / 8)}; }
  INLINE void store(double *p, Halves x) { *(Doubles *)p = x.a, *(Doubles *)(p + BYTES / 8) = x.b; }
};
