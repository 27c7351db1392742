// A table of rows that the server pages and sorts. Vue escapes every value; there is no markup in them.
// A small ECharts chart; `options` say how it looks.
const Spark = {
  template: `<div class="kw-spark" role="img"></div>`,
  props: { points: Array, options: Object },
  async mounted() {
    const { echarts } = await import("nicegui-echart");
    if (!this.$el.isConnected) return;
    this.chart = echarts.init(this.$el, null, { renderer: "svg", width: 104, height: 26 });
    this.chart.setOption(this.options);
    this.draw();
  },
  beforeUnmount() {
    this.chart?.dispose();
  },
  watch: {
    points(now, before) {
      if (String(now) !== String(before)) this.draw();
    },
  },
  methods: {
    draw() {
      this.chart?.setOption({ series: [{ data: this.points }] });
    },
  },
};

export default {
  components: { Spark },
  template: `
    <q-table
      class="kw-grid" flat binary-state-sort
      :class="{ 'kw-grid-single': !paged || pagination.rowsNumber <= 25 }"
      :rows="rows" :columns="columns" :row-key="rowKey" :aria-label="label"
      v-model:pagination="page" :rows-per-page-options="[25, 50, 100]"
      @request="ask"
    >
      <template #header-cell="scope">
        <q-th :props="scope" :tabindex="scope.col.sortable ? 0 : undefined" :aria-sort="sorted(scope.col)"
              @keydown.enter="scope.col.sortable && scope.sort(scope.col)">{{ scope.col.label }}</q-th>
      </template>
      <template #body="scope">
        <q-tr :props="scope">
          <q-td v-for="column in scope.cols" :key="column.name" :props="scope"
                :class="'kw-cell-' + column.kind" :data-label="column.label">
            <template v-if="column.kind === 'chip'">
              <span v-if="scope.row[column.name]" class="kw-chip" :class="'kw-' + scope.row[column.name].tone">{{ scope.row[column.name].text }}</span>
            </template>
            <template v-else-if="column.kind === 'bars'">
              <span v-if="!scope.row[column.name].length" class="kw-none">—</span>
              <div v-else class="kw-bars">
                <div v-for="bar in scope.row[column.name]" :key="bar.label" class="kw-bar">
                  <span class="kw-bar-label">{{ bar.label }}</span>
                  <span class="kw-bar-track" v-if="bar.share !== null" role="meter" aria-valuemin="0" aria-valuemax="100"
                        :aria-valuenow="Math.round(bar.share * 100)" :aria-label="bar.label">
                    <span class="kw-bar-fill" :class="bar.share >= .9 ? 'kw-full' : ''" :style="{ width: bar.share * 100 + '%' }"></span>
                  </span>
                  <span v-else class="kw-bar-none"></span>
                  <span class="kw-bar-text">{{ bar.text }}</span>
                </div>
              </div>
            </template>
            <template v-else-if="column.kind === 'link'">
              <button type="button" class="kw-link" :title="scope.row[column.name]" @click="act('open', scope.row)">{{ scope.row[column.name] }}</button>
            </template>
            <template v-else-if="column.kind === 'time'">
              <local-time v-if="scope.row[column.name]" :at="scope.row[column.name]"></local-time>
              <span v-else class="kw-none">—</span>
            </template>
            <template v-else-if="column.kind === 'spark'">
              <spark v-if="scope.row[column.name]" :points="scope.row[column.name].points" :options="spark"
                     :aria-label="scope.row[column.name].label" :title="scope.row[column.name].label"></spark>
              <span v-else class="kw-none">—</span>
            </template>
            <template v-else-if="column.kind === 'actions'">
              <div class="kw-actions">
                <q-btn v-for="action in scope.row[column.name]" :key="action.name" flat dense no-caps
                       :icon="action.icon" :label="action.label" @click="act(action.name, scope.row)" />
              </div>
            </template>
            <span v-else>{{ scope.row[column.name] ?? '—' }}</span>
            <div v-if="column.note && scope.row[column.note]" class="kw-note">{{ scope.row[column.note] }}
              <template v-if="scope.row[column.note + '_until']">until <local-time :at="scope.row[column.note + '_until']"></local-time></template>
            </div>
          </q-td>
        </q-tr>
      </template>
    </q-table>
  `,
  props: { rows: Array, columns: Array, rowKey: String, label: String, paged: Boolean, pagination: Object, spark: Object },
  emits: ["ask", "act"],
  data() {
    return { page: { ...this.pagination } };
  },
  watch: {
    pagination(wanted) {
      this.page = { ...wanted };
    },
  },
  methods: {
    ask({ pagination }) {
      this.$emit("ask", pagination);
    },
    sorted(column) {
      if (column.name !== this.page.sortBy) return undefined;
      return this.page.descending ? "descending" : "ascending";
    },
    act(name, row) {
      this.$emit("act", { name, key: row[this.rowKey] });
    },
  },
};
