/* Stands where TensorRT's libraries would be and passes the nine C functions that its Python bindings need to
 * TensorRT for RTX, whose builder and ONNX parser run without a GPU. R2SM_TENSORRT_RTX and R2SM_TENSORRT_RTX_PARSER
 * name those libraries; without them the bindings can be imported, and nothing else. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define RTX_VERSION 10701 /* of libtensorrt_rtx 1.7.1; it refuses callers of another version */

static void *symbol(const char *variable, const char *name) {
    const char *path = getenv(variable);
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL;
    void *found = library ? dlsym(library, name) : NULL;
    if (!found) {
        fprintf(stderr, "%s: %s\n", name, path ? dlerror() : variable);
        abort();
    }
    return found;
}

#define INFER(name) symbol("R2SM_TENSORRT_RTX", name)
#define PARSER(name) symbol("R2SM_TENSORRT_RTX_PARSER", name)

void *createInferBuilder_INTERNAL(void *logger, int version) {
    return ((void *(*)(void *, int))INFER("createInferBuilder_INTERNAL"))(logger, RTX_VERSION);
}

void *createInferRuntime_INTERNAL(void *logger, int version) {
    return ((void *(*)(void *, int))INFER("createInferRuntime_INTERNAL"))(logger, RTX_VERSION);
}

void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) {
    return ((void *(*)(void *, void *, int))INFER("createInferRefitter_INTERNAL"))(engine, logger, RTX_VERSION);
}

void *getPluginRegistry(void) { return ((void *(*)(void))INFER("getPluginRegistry"))(); }

void *getBuilderPluginRegistry(int capability) {
    return ((void *(*)(int))INFER("getBuilderPluginRegistry"))(capability);
}

void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) {
    return ((void *(*)(void *, void *, int))PARSER("createNvOnnxParser_INTERNAL"))(network, logger, RTX_VERSION);
}

void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) {
    return ((void *(*)(void *, void *, int))PARSER("createNvOnnxParserRefitter_INTERNAL"))(
        refitter, logger, RTX_VERSION);
}

int getNvOnnxParserVersion(void) { return ((int (*)(void))PARSER("getNvOnnxParserVersion"))(); }

bool initLibNvInferPlugins(void *logger, const char *space) { return true; }
