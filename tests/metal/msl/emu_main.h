// main() of the executables that run under a sanitizer: buffers come from one file and go back
// to another.
#pragma once

namespace emu {

struct Request {
  ulong n_buffers, order;
  uint grid[3], threadgroup[3];
};

inline void must(bool ok, const char* what) {
  if (ok) return;
  fprintf(stderr, "emulator: %s\n", what);
  exit(9);
}

}  // namespace emu

// Every buffer is an allocation of its own, of exactly its size, so that ASan sees both ends.
int main(int, char** argv) {
  emu::Request r;
  FILE* file = fopen(argv[1], "rb");
  emu::must(file && fread(&r, sizeof r, 1, file) == 1, "no request");
  void** buffers = static_cast<void**>(calloc(r.n_buffers, sizeof(void*)));
  ulong* sizes = static_cast<ulong*>(calloc(r.n_buffers, sizeof(ulong)));
  emu::must(fread(sizes, sizeof(ulong), r.n_buffers, file) == r.n_buffers, "no sizes");
  for (ulong i = 0; i < r.n_buffers; i++) {
    buffers[i] = malloc(sizes[i]);
    emu::must(fread(buffers[i], 1, sizes[i], file) == sizes[i], "a buffer is cut off");
  }
  fclose(file);
  char message[1280] = "";
  ulong bytes = 0;
  if (emu_run(buffers, r.grid, r.threadgroup, 0, int(r.order), 1, 0, message, sizeof message, &bytes)) {
    fprintf(stderr, "EMULATOR: %s\n", message);
    return 8;
  }
  file = fopen(argv[2], "wb");
  emu::must(file && fwrite(&bytes, sizeof bytes, 1, file) == 1, "no result");
  for (ulong i = 0; i < r.n_buffers; i++) emu::must(fwrite(buffers[i], 1, sizes[i], file) == sizes[i], "a result is cut off");
  return fclose(file);
}
