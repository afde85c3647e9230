/** What went wrong, in one line (`message`) and as a word to decide by (`code`). */
export class ConsistencySamplerError extends Error {
  /**
   * @param {string} code
   *   unsupported: no usable WebGPU, and the CPU not wanted; network: no answer, or one that broke off; http: a status other than
   *   success, or a web page in place of a file; config, weights: a file of the model that is not what it should be, by
   *   its form, its length or its SHA-256;
   *   input: bad options; gpu: the GPU is too small, or gave up; lost: the GPU was lost, and again while what was under
   *   way was done anew, so that only the next call brings the model back; busy: another call of this sampler is running;
   *   disposed: dispose() was called; failed: anything else
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = "ConsistencySamplerError";
    this.code = code;
  }
}
