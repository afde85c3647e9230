// The gradient of a map that several launches read: the sum of what each of them leaves.
//
// Parameters:
//   height, width, channels   of the map, channels in vec4s
//   offsetN, pitchN           where the map's channels begin in a pixel of input N, and the length of that, in vec4s
//   modeN                     0: there is no input N; 1: it has the map's size; 2: the map was read upsampled by 2, 3:
//                             downsampled by 2

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input0: array<vec4f>;
@group(0) @binding(3) var<storage, read> input1: array<vec4f>;
@group(0) @binding(4) var<storage, read> input2: array<vec4f>;
@group(0) @binding(5) var<storage, read> input3: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let pixels = params.height * params.width;
    if (id.x >= pixels * params.channels) {
        return;
    }
    let c = id.x % params.channels;
    let y = id.x / params.channels / params.width;
    let x = id.x / params.channels % params.width;
    let b = id.y;
    var v = vec4f();
@for n in 4
    if (params.mode$n == 1u) {
        v += input$n[(b * pixels + y * params.width + x) * params.pitch$n + params.offset$n + c];
    } else if (params.mode$n == 2u) {
        let row = 2u * params.width * params.pitch$n;
        let at = (b * pixels * 4u + 4u * y * params.width + 2u * x) * params.pitch$n + params.offset$n + c;
        v += (input$n[at] + input$n[at + params.pitch$n]) + (input$n[at + row] + input$n[at + row + params.pitch$n]);
    } else if (params.mode$n == 3u) {
        let at = (b * (params.height / 2u) + y / 2u) * (params.width / 2u) + x / 2u;
        v += 0.25 * input$n[at * params.pitch$n + params.offset$n + c];
    }
@end
    output[b * pixels * params.channels + id.x] = v;
}
