// Functions of newer C and C++ libraries, defined here by older ones: a library that is linked on a
// new system then loads on an older one, as manylinux_2_28 asks (glibc 2.28, GCC 8's libstdc++).
//
// The linker takes a definition of this library before one of a system's, so nothing else changes.
// This file defines nothing where the compiler's own system is as old as that.
#include <new>
#include <sstream>
#include <string>

#if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))
#if __GLIBC_PREREQ(2, 34)
#include <pthread.h>

#if defined(__x86_64__)
#define FL_FIRST "GLIBC_2.2.5"
#define FL_FIRST_AFFINITY "GLIBC_2.3.4"
#else
#define FL_FIRST "GLIBC_2.17"
#define FL_FIRST_AFFINITY "GLIBC_2.17"
#endif
// Hidden: no other library is to find these definitions.
#define FL_HIDDEN(name) __asm__(".hidden " name)

extern "C" {
double fl_first_log(double);
void* fl_first_dlsym(void*, const char*);
int fl_first_affinity(pthread_t, size_t, const cpu_set_t*);
__asm__(".symver fl_first_log, log@" FL_FIRST);
__asm__(".symver fl_first_dlsym, dlsym@" FL_FIRST);
__asm__(".symver fl_first_affinity, pthread_setaffinity_np@" FL_FIRST_AFFINITY);

// glibc 2.29 gave log a version that does not look how errors are to be handled.
FL_HIDDEN("log");
double log(double x) { return fl_first_log(x); }

// glibc 2.34 moved the libraries of loading and of threads into the C library.
FL_HIDDEN("dlsym");
void* dlsym(void* handle, const char* name) noexcept {
  return fl_first_dlsym(handle, name);
}
FL_HIDDEN("pthread_setaffinity_np");
int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t* set) noexcept {
  return fl_first_affinity(thread, size, set);
}
}

#if defined(__GLIBCXX__)
// GCC 9 added constructors to streams of strings.
template std::basic_ostringstream<char>::basic_ostringstream();
template std::basic_stringstream<char>::basic_stringstream();

#if __GNUC__ >= 11
// GCC 11 added the string of a stream that is not needed any more, and an error of allocations.
template std::string std::basic_stringbuf<char>::str() const&;
template std::string std::basic_stringbuf<char>::str() &&;
FL_HIDDEN("_ZSt28__throw_bad_array_new_lengthv");
void std::__throw_bad_array_new_length() { throw std::bad_array_new_length(); }
#endif
#endif

#endif
#endif
