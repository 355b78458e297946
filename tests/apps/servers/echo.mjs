// A gRPC service, described without a compiler: say answers once, repeat until its client goes.
import { create, createFileRegistry } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema, file_google_protobuf_wrappers } from '@bufbuild/protobuf/wkt';

const text = '.google.protobuf.StringValue';
const file = create(FileDescriptorProtoSchema, {
  name: 'echo.proto',
  package: 'apps',
  syntax: 'proto3',
  dependency: ['google/protobuf/wrappers.proto'],
  service: [{
    name: 'Echo',
    method: [
      { name: 'Say', inputType: text, outputType: text },
      { name: 'Repeat', inputType: text, outputType: text, serverStreaming: true },
    ],
  }],
});
const registry = createFileRegistry(file, (name) => (name === 'google/protobuf/wrappers.proto' ? file_google_protobuf_wrappers : undefined));

export const Echo = registry.getService('apps.Echo');
