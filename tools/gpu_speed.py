"""How fast a GPU is: ours and the peers in turn, milliseconds of a step and sentences a second; for tools/on_gpu.py."""

import statistics
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import profile, supported_activities

from benchmarks.common import encoder_flops, in_turn, quotient
from benchmarks.encode import Transformers, questions, sentence_transformers
from benchmarks.step import STEPS, Peer, lengths, session_for, shuffled, take_steps
from bert import BertConfig, BertModel, BertTokenizer
from bert.checkpoint import save_folder
from bert.precision import resolve_precision
from heads import MultitaskBert

# Dense bfloat16 FLOP/s by a part of the GPU's name, the longer before the shorter; from NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
PEAKS |= {"L40": 181e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12}
PEERS = {"transformers": "mtl", "torchjd": "gs"}  # each with our strategy to compare; both need transformers
ATTENTION = {"transformers": "sdpa", "torchjd": "eager"}  # torchjd's vmap has no rule for sdpa, and loops


def speed(args: Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    args.amp = resolve_precision("auto", torch.device("cuda"))
    for size in ("minilm", "bert-base"):
        for rows in args.sizes.timed:
            yield f"a step: {size}, {rows} x 3 rows", partial(step, args, size, rows)
        yield f"encode: {size}", partial(encode, args, size)


def installed(*libraries: str) -> bool:
    return all(find_spec(library) for library in libraries)


def source(args: Namespace, size: str) -> str:
    """The model's folder. For bert-base it has random weights, and is made on the first call."""
    folder = args.home / "bert-base"
    if size == "bert-base" and not folder.exists():
        save_folder(BertModel(BertConfig(num_hidden_layers=args.sizes.layers)), folder)
        BertTokenizer.from_pretrained(args.checkpoint).save(folder)
    return str(folder) if size == "bert-base" else args.checkpoint


def model_flop_use(flops: float, seconds: float) -> float | None:
    """Useful matrix FLOP/s as a share of the GPU's peak in bfloat16; None if that is not known."""
    name = torch.cuda.get_device_properties(0).name
    return next((flops / seconds / peak for part, peak in PEAKS.items() if part in name), None)


def step(args: Namespace, size: str, rows: int) -> dict:
    """Milliseconds of a step, and each one's own peak of memory, weights and moments included."""
    args, amp = Namespace(**{**vars(args), "checkpoint": source(args, size)}), args.amp
    ours, actions, figures = {}, {}, {"ok": None, "precision": amp}

    def add(name: str, make: Callable[[], Callable[[], None]]) -> None:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        actions[name] = make()
        actions[name]()
        figures[f"{name}_gib"] = (torch.cuda.max_memory_allocated() - before) / 2**30

    def make_ours(strategy: str) -> Callable[[], None]:
        ours[strategy] = session_for(args, strategy, rows)
        return partial(take_steps, ours[strategy])

    def make_peer(library: str) -> Callable[[], None]:
        peer = Peer(args.checkpoint, ATTENTION[library], amp, library == "torchjd", "cuda")
        return partial(peer.steps, batches)

    for strategy in ("mtl", "gs"):
        add(strategy, partial(make_ours, strategy))
    batches, sentences = shuffled(ours["gs"]), lengths(ours["gs"])
    failed = {}
    for library in PEERS:
        if installed("transformers", library):
            try:
                add(library, partial(make_peer, library))
            except Exception as error:  # out of its memory, or of another version: our figures stay
                actions.pop(library, None)
                failed[library] = f"failed: {error!r:.200}"
    seconds = in_turn(actions, args.sizes.rounds, "cuda")
    figures |= {f"{name}_ms": 1e3 * statistics.median(times) / STEPS for name, times in seconds.items()}
    figures["gs / mtl"] = quotient(seconds["gs"], seconds["mtl"])
    for library, strategy in PEERS.items():
        figures[f"{library} / {strategy}"] = failed.get(library) or ratio_to_peer(seconds, library, strategy)
    flops = 3 * encoder_flops(ours["gs"].model.bert.config, sentences)  # backward: twice forward
    figures["tokens"] = sum(sentences) / STEPS
    for strategy, session in ours.items():
        figures[f"{strategy}_mfu"] = model_flop_use(flops, statistics.median(seconds[strategy]))
        figures |= {f"{strategy}_{key}": x for key, x in profiled(partial(take_steps, session, 1)).items()}
    return figures


def ratio_to_peer(seconds: dict[str, list[float]], peer: str, ours: str) -> float | str:
    return quotient(seconds[peer], seconds[ours]) if peer in seconds else "not installed"


def profiled(action: Callable[[], None]) -> dict:
    """Kernels, copies, the GPU's milliseconds in both, and how often the program waited for it."""
    with profile(activities=supported_activities()) as profiler:
        action()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if not event.is_user_annotation]  # an optimiser's step, say
    on_gpu = [event for event in events if event.device_type == DeviceType.CUDA]
    copies = sum(event.name.startswith(("Memcpy", "Memset")) for event in on_gpu)
    waits = sum(event.name in ("cudaStreamSynchronize", "cudaEventSynchronize") for event in events)
    busy = sum(event.time_range.elapsed_us() for event in on_gpu) / 1e3
    return {"kernels": len(on_gpu) - copies, "copies": copies, "busy_ms": busy, "waits": waits}


def encode(args: Namespace, size: str) -> dict:
    folder, texts, amp = Path(source(args, size)), questions(None, args.sizes.sentences), args.amp
    ours = MultitaskBert.from_pretrained(folder).to("cuda")
    actions = {"ours": partial(ours.encode, texts, pooling="mean", layer=-1, normalize=True, amp=amp)}
    if installed("transformers"):
        actions["transformers"] = partial(Transformers(folder, "sdpa", amp, "cuda").encode, texts)
    if installed("sentence_transformers"):
        actions["sentence-transformers"] = partial(sentence_transformers(folder, "cuda"), texts)
    seconds = in_turn(actions, args.sizes.rounds, "cuda")
    figures = {f"{name}, sentences/s": len(texts) / statistics.median(times) for name, times in seconds.items()}
    for peer in ("transformers", "sentence-transformers"):
        figures[f"ours / {peer}"] = ratio_to_peer(seconds, peer, "ours")
    flops = encoder_flops(ours.bert.config, ours.tokenizer.lengths(texts))
    use = model_flop_use(flops, statistics.median(seconds["ours"]))
    return {"ok": None, "precision": amp, "sentences": len(texts), **figures, "mfu": use}
