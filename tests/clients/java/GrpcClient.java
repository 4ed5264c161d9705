import static chorale.v1.Adapters.*;
import static chorale.v1.Inference.*;

import chorale.v1.AdapterServiceGrpc;
import chorale.v1.InferenceServiceGrpc;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** A gRPC client whose code protoc and grpc-java made from the proto. */
public final class GrpcClient {
  private final JsonObject expect;
  private final List<String> voices = new ArrayList<>();
  private final List<String> adapters = new ArrayList<>();
  private final InferenceServiceGrpc.InferenceServiceBlockingStub user;
  private final InferenceServiceGrpc.InferenceServiceStub later;
  private final InferenceServiceGrpc.InferenceServiceBlockingStub nobody;
  private final AdapterServiceGrpc.AdapterServiceBlockingStub admin;
  private final AdapterServiceGrpc.AdapterServiceStub watching;
  private final Prompt asked;
  private final SamplingParams greedy = SamplingParams.newBuilder().setTemperature(0).setMaxTokens(96).build();

  private GrpcClient(ManagedChannel channel) throws Exception {
    expect = JsonParser.parseString(Files.readString(Path.of(System.getenv("CHORALE_EXPECT")))).getAsJsonObject();
    JsonArray names = expect.getAsJsonArray("voices");
    for (int i = 0; i < names.size(); i++) {
      voices.add(names.get(i).getAsString());
      adapters.add(i == 0 ? "" : names.get(i).getAsString());
    }
    nobody = InferenceServiceGrpc.newBlockingStub(channel);
    user = nobody.withInterceptors(bearer("CHORALE_KEY"));
    later = InferenceServiceGrpc.newStub(channel).withInterceptors(bearer("CHORALE_KEY"));
    admin = AdapterServiceGrpc.newBlockingStub(channel).withInterceptors(bearer("CHORALE_ADMIN_KEY"));
    watching = AdapterServiceGrpc.newStub(channel).withInterceptors(bearer("CHORALE_ADMIN_KEY"));
    asked = prompt(expect.get("prompt").getAsString());
  }

  private static io.grpc.ClientInterceptor bearer(String variable) {
    Metadata metadata = new Metadata();
    metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + System.getenv(variable));
    return MetadataUtils.newAttachHeadersInterceptor(metadata);
  }

  private static Prompt prompt(String text) {
    return Prompt.newBuilder().setChat(Chat.newBuilder().addMessages(ChatMessage.newBuilder().setRole("user").setContent(text))).build();
  }

  private static void ok(String name) {
    System.out.println("ok " + name);
  }

  private static void same(Object got, Object want) {
    if (!got.equals(want)) throw new AssertionError(got + ", want " + want);
  }

  private static void check(boolean holds, Object about) {
    if (!holds) throw new AssertionError(about);
  }

  private String said(String kind, String voice) {
    return expect.getAsJsonObject(kind).getAsJsonObject(voice).get("text").getAsString();
  }

  private int counted(String voice, String tokens) {
    return expect.getAsJsonObject("short").getAsJsonObject(voice).get(tokens).getAsInt();
  }

  private SamplingParams brief() {
    return greedy.toBuilder().setMaxTokens(expect.get("short_tokens").getAsInt()).build();
  }

  private GenerateRequest.Builder ask(String... names) {
    GenerateRequest.Builder request = GenerateRequest.newBuilder().setSampling(greedy);
    for (String name : names) request.addPrompts(asked).addAdapters(name);
    return request;
  }

  private void generate() {
    String textPrompt = expect.get("text_prompt").getAsString();
    // doc: generate
    GenerateRequest request =
        GenerateRequest.newBuilder()
            .addPrompts(Prompt.newBuilder().setText(textPrompt))
            .addPrompts(asked)
            .addAdapters("") // one per prompt, empty is the base model
            .addAdapters("pirate")
            .setSampling(SamplingParams.newBuilder().setTemperature(0).setMaxTokens(48))
            .build();
    GenerateResponse answer = user.generate(request);
    for (Generation generation : answer.getGenerationsList()) {
      System.out.println(generation.getAdapter() + ": " + generation.getText());
    }
    // doc: end
    same(answer.getGenerations(1).getText(), said("chat", "pirate"));

    GenerateRequest.Builder texts = GenerateRequest.newBuilder().setRequestId("from-java");
    for (String name : adapters) texts.addPrompts(Prompt.newBuilder().setText(textPrompt)).addAdapters(name);
    texts.setSampling(SamplingParams.newBuilder().setTemperature(0).setMaxTokens(expect.get("text_tokens").getAsInt()).setIgnoreEos(true));
    answer = user.generate(texts.build());
    same(answer.getRequestId(), "from-java");
    for (int i = 0; i < voices.size(); i++) {
      Generation g = answer.getGenerations(i);
      same(g.getText(), said("text", voices.get(i)));
      same(g.getAdapter(), adapters.get(i));
      check(i == 0 || g.getAdapterDigest().startsWith("sha256:") && g.getAdapterVersion() == 1, g);
    }
    ok("lists of prompts and adapters");

    answer = user.generate(ask(adapters.toArray(String[]::new)).setSampling(brief()).build());
    for (int i = 0; i < voices.size(); i++) {
      Generation g = answer.getGenerations(i);
      same(g.getText(), said("short", voices.get(i)));
      same(g.getUsage().getPromptTokens(), counted(voices.get(i), "prompt_tokens"));
      same(g.getUsage().getCompletionTokens(), counted(voices.get(i), "completion_tokens"));
    }
    ok("chat");
  }

  private void stream() {
    // doc: stream
    String[] said = {"", ""};
    Iterator<GenerateStreamResponse> pieces = user.generateStream(GenerateStreamRequest.newBuilder().setRequest(ask("json", "sql")).build());
    while (pieces.hasNext()) {
      GenerateStreamResponse piece = pieces.next();
      said[piece.getPromptIndex()] += piece.getText();
      if (piece.hasFinish()) System.out.println(piece.getAdapter() + ": " + said[piece.getPromptIndex()]);
    }
    // doc: end
    same(List.of(said), List.of(said("chat", "json"), said("chat", "sql")));
    ok("stream");
  }

  private void sampling() {
    SamplingParams drawn = SamplingParams.newBuilder().setTemperature(1.5).setN(3).setSeed(5).setMaxTokens(8).build();
    GenerateRequest request = ask("").setSampling(drawn).build();
    List<String> first = user.generate(request).getGenerationsList().stream().map(Generation::getText).toList();
    same(user.generate(request).getGenerationsList().stream().map(Generation::getText).toList(), first);
    check(first.size() == 3 && new HashSet<>(first).size() > 1, first);
    ok("n and seed");

    String whole = said("chat", "pirate");
    String stop = whole.substring(8, 14);
    GenerateRequest cut =
        ask("pirate").setSampling(greedy.toBuilder().addStop(stop)).setLogprobs(LogprobOptions.newBuilder().setEnabled(true).setTop(2).setPromptStart(0)).build();
    Generation g = user.generate(cut).getGenerations(0);
    same(g.getText(), whole.substring(0, whole.indexOf(stop)));
    same(g.getFinish().getText(), stop);
    same(g.getLogprobsCount(), g.getTokenIdsCount());
    same(g.getPromptLogprobsCount(), g.getUsage().getPromptTokens());
    for (PositionLogprobs p : g.getLogprobsList()) {
      check(p.getToken().getLogprob() <= 0 && p.getTopCount() == 2 && p.getTop(0).getTokenId() == p.getToken().getTokenId(), p);
    }
    ok("logprobs and stop");
  }

  private void together() throws Exception {
    var pool = Executors.newCachedThreadPool();
    List<CompletableFuture<String>> calls = new ArrayList<>();
    for (String name : adapters) {
      calls.add(CompletableFuture.supplyAsync(() -> user.generate(ask(name).setSampling(brief()).build()).getGenerations(0).getText(), pool));
    }
    for (int i = 0; i < voices.size(); i++) same(calls.get(i).get(), said("short", voices.get(i)));
    pool.shutdown();
    ok("together");
  }

  /** The call must fail with the code and the reason; gives the details. */
  private static com.google.rpc.Status fails(Status.Code code, String reason, Runnable call) throws Exception {
    try {
      call.run();
    } catch (StatusRuntimeException error) {
      same(error.getStatus().getCode(), code);
      com.google.rpc.Status status = StatusProto.fromThrowable(error);
      for (Any any : status.getDetailsList()) {
        if (!any.is(ErrorInfo.class)) continue;
        same(any.unpack(ErrorInfo.class).getReason(), reason);
        same(any.unpack(ErrorInfo.class).getDomain(), "chorale");
        return status;
      }
    }
    throw new AssertionError("no " + reason);
  }

  private void errors() throws Exception {
    GenerateRequest unknown = ask("nobody").build();
    fails(Status.Code.NOT_FOUND, "ADAPTER_NOT_FOUND", () -> user.generate(unknown));
    fails(Status.Code.NOT_FOUND, "ADAPTER_NOT_FOUND", () -> user.generateStream(GenerateStreamRequest.newBuilder().setRequest(unknown).build()).next());
    ok("unknown adapter");

    GenerateRequest wrong = ask("").setSampling(SamplingParams.newBuilder().setTemperature(-1).setN(1000)).build();
    com.google.rpc.Status status = fails(Status.Code.INVALID_ARGUMENT, "INVALID_REQUEST", () -> user.generate(wrong));
    Set<String> fields = new HashSet<>();
    for (Any any : status.getDetailsList()) {
      if (any.is(BadRequest.class)) any.unpack(BadRequest.class).getFieldViolationsList().forEach(v -> fields.add(v.getField()));
    }
    same(fields, Set.of("sampling.temperature", "sampling.n"));
    ok("invalid fields");

    fails(Status.Code.UNAUTHENTICATED, "UNAUTHENTICATED", () -> nobody.generate(unknown));
    var notAdmin = AdapterServiceGrpc.newBlockingStub(admin.getChannel()).withInterceptors(bearer("CHORALE_KEY"));
    fails(Status.Code.PERMISSION_DENIED, "ADMIN_KEY_REQUIRED", () -> notAdmin.loadAdapter(late()));
    ok("keys");
  }

  private static LoadAdapterRequest late() {
    return LoadAdapterRequest.newBuilder().setName("late-java").setSource(System.getenv("CHORALE_SOURCE")).build();
  }

  private void lifecycle() throws Exception {
    List<String> told = Collections.synchronizedList(new ArrayList<>());
    Context.CancellableContext watch = Context.current().withCancellation();
    watch.run(
        () ->
            watching.watchAdapters(
                WatchAdaptersRequest.getDefaultInstance(),
                new StreamObserver<WatchAdaptersResponse>() {
                  @Override
                  public void onNext(WatchAdaptersResponse change) {
                    change.getAdaptersList().forEach(a -> told.add(a.getName() + " " + a.getState()));
                    change.getRemovedList().forEach(name -> told.add(name + " gone"));
                  }

                  @Override
                  public void onError(Throwable error) {}

                  @Override
                  public void onCompleted() {}
                }));
    // doc: adapters
    Adapter loaded = admin.loadAdapter(late()).getAdapter();
    List<String> names = admin.listAdapters(ListAdaptersRequest.getDefaultInstance()).getAdaptersList().stream().map(Adapter::getName).toList();
    Generation answer = user.generate(ask("late-java").build()).getGenerations(0);
    admin.unloadAdapter(UnloadAdapterRequest.newBuilder().setName("late-java").build());
    // doc: end
    same(loaded.getState(), AdapterState.ADAPTER_STATE_LOADED);
    check(names.contains("late-java") && names.containsAll(voices.subList(1, voices.size())), names);
    same(answer.getText(), expect.get("late").getAsString());
    same(answer.getAdapterDigest(), loaded.getDigest());
    fails(Status.Code.NOT_FOUND, "ADAPTER_NOT_FOUND", () -> user.generate(ask("late-java").build()));
    for (int i = 0; i < 1000 && !told.contains("late-java gone"); i++) Thread.sleep(20);
    watch.cancel(null);
    check(told.contains("late-java ADAPTER_STATE_LOADED") && told.contains("late-java gone"), told);
    for (String voice : voices.subList(1, voices.size())) check(told.contains(voice + " ADAPTER_STATE_LOADED"), told);
    ok("load, watch, list, unload");
  }

  private void givingUp() throws Exception {
    GenerateRequest endless = ask("label").setSampling(SamplingParams.newBuilder().setMaxTokens(1500).setIgnoreEos(true)).build();
    try {
      user.withDeadlineAfter(1, TimeUnit.SECONDS).generate(endless);
      throw new AssertionError("no deadline");
    } catch (StatusRuntimeException error) {
      same(error.getStatus().getCode(), Status.Code.DEADLINE_EXCEEDED);
    }
    ok("deadline");

    CompletableFuture<Status.Code> ended = new CompletableFuture<>();
    later.generateStream(
        GenerateStreamRequest.newBuilder().setRequest(endless).build(),
        new ClientResponseObserver<GenerateStreamRequest, GenerateStreamResponse>() {
          private ClientCallStreamObserver<GenerateStreamRequest> call;

          @Override
          public void beforeStart(ClientCallStreamObserver<GenerateStreamRequest> stream) {
            call = stream;
          }

          @Override
          public void onNext(GenerateStreamResponse piece) {
            call.cancel("enough", null);
          }

          @Override
          public void onError(Throwable error) {
            ended.complete(Status.fromThrowable(error).getCode());
          }

          @Override
          public void onCompleted() {
            ended.complete(Status.Code.OK);
          }
        });
    same(ended.get(), Status.Code.CANCELLED);
    ok("cancel");
  }

  public static void main(String[] args) throws Exception {
    ManagedChannel channel = NettyChannelBuilder.forTarget(System.getenv("CHORALE_GRPC")).usePlaintext().build();
    GrpcClient client = new GrpcClient(channel);
    client.generate();
    client.stream();
    client.sampling();
    client.together();
    client.errors();
    client.lifecycle();
    client.givingUp();
    channel.shutdownNow();
  }
}
