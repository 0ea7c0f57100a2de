// SPDX-License-Identifier: Apache-2.0
// Preloaded into a run: refuses every connection to anywhere but loopback, from C++ code too, and notes it in a file.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int leaves_this_machine(const struct sockaddr *address) {
  if (address->sa_family == AF_INET)
    return (ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24) != 127;
  if (address->sa_family == AF_INET6) {
    const struct in6_addr *to = &((const struct sockaddr_in6 *)address)->sin6_addr;
    static const unsigned char mapped[13] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127};
    return !IN6_IS_ADDR_LOOPBACK(to) && memcmp(to, mapped, sizeof mapped) != 0;
  }
  return 0;
}

int connect(int descriptor, const struct sockaddr *address, socklen_t length) {
  static int (*next)(int, const struct sockaddr *, socklen_t);
  if (!next) next = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
  if (!leaves_this_machine(address)) return next(descriptor, address, length);
  FILE *notes = fopen(getenv("REFUSED_CONNECTIONS"), "a");
  if (notes) {
    fprintf(notes, "a connection of address family %d was refused\n", address->sa_family);
    fclose(notes);
  }
  errno = ECONNREFUSED;
  return -1;
}
